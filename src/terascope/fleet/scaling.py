"""Follows the load: looks at each deployment whose number of replicas may change, and has it changed."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from terascope.core.bounds import Bounds
from terascope.core.clock import Clock
from terascope.engines.contract import EngineInfo
from terascope.fleet.demand import Demands, Waiting, may, nothing
from terascope.fleet.deployed import Deployed
from terascope.fleet.slot import ServingState, Slot
from terascope.fleet.waiting import within
from terascope.scheduler.scaling import Load, Scaler

LOOK_S = 1.0
"""Seconds between two looks; a request that finds no replica is seen at once."""
_log = logging.getLogger(__name__)

Resize = Callable[[str, int], Awaitable[None]]
"""Keeps so many replicas of a deployment."""


class Scaling:
    """Keeps a `Scaler` for each deployment, by its name."""

    def __init__(self, clock: Clock, slots: Callable[[], Sequence[Slot]], resize: Resize) -> None:
        self.demands: Demands = nothing
        """What is asked of models; set by whoever lets requests wait."""
        self.infos: dict[str, EngineInfo] = {}
        """What the engine of each deployment said of itself last."""
        self._clock = clock
        self._slots = slots
        self._resize = resize
        self._scalers: dict[str, tuple[Deployed, Scaler]] = {}
        self._stirred = asyncio.Event()
        self.closed = False
        """Whether the fleet ends: nothing is started any more."""

    def keep(self, deployed: Deployed, bounds: Bounds) -> None:
        """Follow a deployment from now on, within `bounds`."""
        self._scalers[deployed.name] = (deployed, Scaler(bounds))
        self.stir()

    def forget(self, name: str) -> None:
        """Follow it no more."""
        self._scalers.pop(name, None)
        self.infos.pop(name, None)

    def bounds(self, name: str) -> Bounds:
        """Within which numbers a deployment is kept; none for one that is not followed."""
        found = self._scalers.get(name)
        return found[1].bounds if found else Bounds.fixed(0)

    def stir(self) -> None:
        """Look now: something waits that nothing is there for."""
        self._stirred.set()

    def close(self) -> None:
        """Have `run` return."""
        self.closed = True
        self.stir()

    async def run(self) -> None:
        """Look again and again, until `close`. A look that fails is logged and ends nothing."""
        while not self.closed:
            for name in tuple(self._scalers):
                try:
                    await self._look(name)
                except Exception:  # noqa: BLE001 - the edge of one deployment: the others are followed on
                    _log.exception("deployment %s could not be scaled", name)
            await self._pause()
            self._stirred.clear()

    async def _pause(self) -> None:
        if not any(scaler.bounds.elastic for _, scaler in self._scalers.values()):
            await self._stirred.wait()
            return
        with suppress(TimeoutError):
            await within(self._clock, LOOK_S, self._stirred.wait())

    async def _look(self, name: str) -> None:
        deployed, scaler = self._scalers.get(name, (None, None))
        if deployed is None or scaler is None or not scaler.bounds.elastic:
            return
        slots = self._kept(name)
        wanted = scaler.wanted(len(slots), self._load(deployed, slots), self._clock.monotonic())
        if wanted != len(slots) and not self.closed:
            await self._resize(name, wanted)

    def _load(self, deployed: Deployed, slots: Sequence[Slot]) -> Load:
        demand = self.demands(deployed.launch.version)
        waiting = [one for one in demand.waiting if self._taker(deployed.model, one) == deployed.name]
        replicas = [slot.supervisor.replica for slot in slots if slot.supervisor]
        known = [places for one in replicas if (places := demand.places.get(one.id))]
        return Load(
            running=sum(one.take_peak() for one in replicas),
            waiting=sum(one.places for one in waiting),
            waited_s=self._clock.monotonic() - min((one.since for one in waiting), default=self._clock.monotonic()),
            places=min(known, default=0) or self._places(deployed),
            reserved=demand.reserved,
            starting=sum(slot.state is ServingState.STARTING for slot in slots),
        )

    def _places(self, deployed: Deployed) -> int:
        """How many places a replica will probably have; 0 when nothing tells."""
        config, info = deployed.launch.deployment, self.infos.get(deployed.name)
        return config.max_in_flight or (info.slots if info else 0) or config.max_batch

    def _taker(self, model: str, waiting: Waiting) -> str:
        """The deployment that waiting requests count for: the first that is for them and may still grow."""
        able = [name for name in self.able(model, waiting) if self.bounds(name).most]
        growing = (name for name in able if len(self._kept(name)) < self.bounds(name).most)
        return next(growing, able[0] if able else "")

    def able(self, model: str, waiting: Waiting) -> list[str]:
        """The names of a model's deployments that are for such requests, as far as that is known."""
        return [
            name
            for name, (deployed, _) in self._scalers.items()
            if deployed.model == model and may(deployed.launch, self.infos.get(name), waiting.kind, waiting.qos)
        ]

    def _kept(self, name: str) -> list[Slot]:
        return [slot for slot in self._slots() if slot.deployed.name == name and not slot.closing]


def leavers(slots: Sequence[Slot], kept: int) -> list[Slot]:
    """Which of `slots` go when `kept` of them stay: first those that answer nothing, then those with least to do."""
    order = list(ServingState)

    def worth(slot: Slot) -> tuple[int, int]:
        return -order.index(slot.state), slot.supervisor.replica.in_flight if slot.supervisor else 0

    return sorted(slots, key=worth)[: max(0, len(slots) - kept)]

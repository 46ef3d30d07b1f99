"""Carries one replica from its row to its end: gathers what is seen of it, applies `next_step`."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any

from terascope.core.clock import Clock
from terascope.core.errors import EngineError
from terascope.core.states import ReplicaStatus, ReplicaTarget
from terascope.fleet.disks import full_places
from terascope.fleet.launchers.contract import Observation, Program, Sight
from terascope.fleet.life import Life
from terascope.fleet.logs import last_words
from terascope.fleet.node import VISIBLE
from terascope.fleet.reconciler import Action, Kind, Limits, Seen, next_step
from terascope.fleet.replica import Replica
from terascope.fleet.waiting import within

Arrived = Callable[[float, float], Awaitable[None]]
"""Told once, when a replica is ready: how long it waited to be begun, and how long it took from then, in seconds."""
Take = Callable[[Callable[[], None]], tuple[str, ...] | str]
"""Takes what a replica needs of the machine: returns its GPUs, or what is lacking, and calls back when to try again."""
Verify = Callable[[Replica], Awaitable[bool]]
"""Says whether a replica's numbers are right; asked once it answers, before it gets requests."""


async def no_check(replica: Replica) -> bool:
    """The verification of a fleet that has no fingerprints: every replica passes."""
    return True


_log = logging.getLogger(__name__)


class Supervisor:
    """Watches one replica and the program behind it."""

    def __init__(
        self,
        life: Life,
        replica: Replica,
        program: Program,
        clock: Clock,
        limits: Limits,
        verify: Verify,
        arrived: Arrived | None = None,
        take: Take = lambda wake: (),
    ) -> None:
        self.replica = replica
        self.was_ready = False
        self._life = life
        self._program = program
        self._clock = clock
        self._limits = limits
        self._verify = verify
        self._seen: Observation | None = None
        self._answers = False
        self._verdict: bool | None = None
        self._silent_since: float | None = None
        self._ready_since: float | None = None
        self._arrived = arrived
        self._take = take
        self._launched: float | None = None
        self._began: float | None = None  # when its program did; None while that waits in a queue
        self._wake = asyncio.Event()  # there may be something to do
        self._look_now = asyncio.Event()  # probe without waiting
        self._helpers: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Return when the replica has ended and its row says so, or it could not be stopped in a hurry."""
        try:
            async with asyncio.TaskGroup() as group:
                await self._live(group)
                for helper in self._helpers:
                    helper.cancel()
        except* Exception:  # noqa: BLE001 - the edge of one replica: whatever breaks here must not break another
            _log.exception("the supervision of replica %s failed", self.replica.id)
        finally:
            await self.replica.engine.aclose()
        if not self._life.over:
            await self._life.end(ReplicaStatus.FAILED, "its supervision failed; the gateway's log has the reason")

    def stop(self, *, hurry: bool = False) -> None:
        """Want it stopped; in a hurry its running answers are cut."""
        self._life.aim(ReplicaTarget.STOPPED, hurry=hurry)
        self._wake.set()

    def lost(self) -> None:
        """Its engine did not answer a request: no new ones until it has answered a probe, and that now."""
        self._suspect(True)
        self._look_now.set()
        self._wake.set()

    @property
    def healthy_s(self) -> float:
        """Seconds since it became ready, 0 if it never did."""
        return self._clock.monotonic() - self._ready_since if self._ready_since is not None else 0.0

    @property
    def start_s(self) -> tuple[float, float | None]:
        """How long its start has waited to be begun, and how long it goes on since then (None: not yet), in seconds."""
        now = self._clock.monotonic()
        if self._launched is None:
            return 0.0, None
        if self._began is None:
            return now - self._launched, None
        return self._began - self._launched, now - self._began

    async def _live(self, group: asyncio.TaskGroup) -> None:
        while not self._life.over:
            self._wake.clear()
            action = next_step(self._life.row, self._look(), self._limits)
            if action.kind is Kind.REST:
                await self._wake.wait()
            else:
                await self._apply(action, group)

    def _look(self) -> Seen:
        silent_since, life = self._silent_since, self._life
        return Seen(
            program=self._seen,
            answers=self._answers,
            verdict=self._verdict,
            in_flight=0 if life.hurried else self.replica.in_flight,
            in_status_s=life.in_status_s,
            silent_s=0.0 if silent_since is None else self._clock.monotonic() - silent_since,
            lost=self.replica.breaker.lost,
        )

    async def _apply(self, action: Action, group: asyncio.TaskGroup) -> None:
        if action.kind is Kind.LAUNCH:
            await self._launch(group)
        elif action.kind is Kind.END and action.status:
            await self._life.end(action.status, await asyncio.to_thread(self._reason, action))
        elif action.status:
            await self._life.mark(action.status, action.message)
            first = action.status is ReplicaStatus.READY and not self.was_ready
            self._entered(action.status, group)
            if first and self._arrived:
                queue_s, load_s = self.start_s
                await self._arrived(queue_s, load_s or 0.0)

    async def _launch(self, group: asyncio.TaskGroup) -> None:
        given = self._take(self._wake.set)
        if isinstance(given, str):
            self._life.say(given)
            await self._wake.wait()
            return
        if given:
            environment = {**self._program.environment, VISIBLE: ",".join(given)}
            self._program = replace(self._program, environment=environment)
        try:
            self._launched = self._began = self._clock.monotonic()
            await self._life.launch(self._program)
        except OSError as error:
            await self._life.end(ReplicaStatus.FAILED, f"could not be started: {error}")
            return
        self._help(group, self._watch())
        self._help(group, self._probe_again_and_again())
        self._help(group, self._alarm(self._limits.start_s))

    def _entered(self, status: ReplicaStatus, group: asyncio.TaskGroup) -> None:
        """Begin what belongs to a status."""
        if status is ReplicaStatus.VERIFYING:
            self._verdict = None
            self._help(group, self._check_numbers())
        elif status is ReplicaStatus.READY:
            self.was_ready = True
            self._ready_since = self._clock.monotonic()
        elif status is ReplicaStatus.DRAINING:
            self._help(group, self._finish())
            self._help(group, self._alarm(self._limits.drain_s))

    def _reason(self, action: Action) -> str:
        """Why it ends; what failed is explained by the last words of its program, and by disks without room."""
        if action.status is not ReplicaStatus.FAILED or not self._program.log:
            return action.message
        words = last_words(self._program.log, [self.replica.endpoint.secret])
        no_room = ", ".join(map(str, full_places(self._program)))
        told = [words, f"no room is left in {no_room}" if no_room else ""]
        return ": ".join(filter(None, [action.message, "; ".join(filter(None, told))]))

    def _help(self, group: asyncio.TaskGroup, work: Coroutine[Any, Any, None]) -> None:
        self._helpers.append(group.create_task(work))

    async def _watch(self) -> None:
        self._see(await self._life.ended())

    def _see(self, seen: Observation) -> None:
        self._seen = seen
        if seen.sight is Sight.GONE:
            self._suspect(True)
        self._wake.set()

    async def _alarm(self, seconds: float) -> None:
        await self._clock.sleep(seconds + 0.01)  # not a moment too early: nobody looks again later
        self._wake.set()

    async def _finish(self) -> None:
        await self.replica.idle()
        self._wake.set()

    async def _check_numbers(self) -> None:
        self._verdict = await self._verify(self.replica)
        self._wake.set()

    async def _probe_again_and_again(self) -> None:
        """Probe until it answers, then now and then; soon again whenever it does not."""
        pause = self._limits.first_pause_s
        while True:
            self._look_now.clear()
            answers = await self._probe()
            self._wake.set()
            with suppress(TimeoutError):
                await within(self._clock, self._limits.health_s if answers else pause, self._look_now.wait())
            pause = self._limits.first_pause_s if answers else min(2 * pause, self._limits.last_pause_s)

    async def _probe(self) -> bool:
        try:
            info = await within(self._clock, self._limits.probe_s, self.replica.engine.probe())
        except EngineError as error:
            return await self._silent(str(error))
        except TimeoutError:
            return await self._silent(f"has not answered a probe for {self._limits.probe_s:g} s")
        self.replica.info = info
        self._answers = True
        self._silent_since = None
        if not self._look_now.is_set():  # else it was reported lost after this probe had begun
            self._suspect(False)
        return True

    async def _silent(self, message: str) -> bool:
        """It did not answer: while it starts that is news of its progress, later a reason to look closer."""
        if self._life.row.status is ReplicaStatus.STARTING:
            await self._not_yet(message)
        elif self._silent_since is None:
            self._silent_since = self._clock.monotonic()
            self._suspect(True)
            seen = await self._life.observe()
            if seen.sight is Sight.GONE:
                self._see(seen)
        return False

    async def _not_yet(self, message: str) -> None:
        """Say how far its start is: what its engine says, or that it has not begun."""
        seen = await self._life.observe() if self._program.listen else None
        if seen and seen.waiting:
            self._began = None
            self._life.waits(seen.reason)
        else:
            self._began = self._clock.monotonic() if self._began is None else self._began
            self._life.say(message)

    def _suspect(self, suspect: bool) -> None:
        if suspect is not self.replica.suspect:
            self.replica.suspect = suspect
            self._life.notify()

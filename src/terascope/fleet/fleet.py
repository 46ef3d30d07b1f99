"""All replicas of this gateway: started, watched, started anew, stopped; and which of them take requests."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from terascope.core.bounds import Bounds
from terascope.core.clock import Clock
from terascope.core.config import DeploymentConfig
from terascope.core.errors import ConfigError, ModelNotFound, ModelUnavailable
from terascope.core.ids import new_id
from terascope.core.models import ModelVersion
from terascope.core.states import ReplicaStatus
from terascope.engines import registry
from terascope.fleet.demand import Waiting
from terascope.fleet.deployed import Deployed, EngineKinds, Programs, Wanted, prepare
from terascope.fleet.endpoints import Endpoints
from terascope.fleet.launchers.contract import Launcher
from terascope.fleet.life import Life, Listener, put_away
from terascope.fleet.logs import log_file
from terascope.fleet.preview import Preview, preview
from terascope.fleet.reaching import TUNNEL, endpoint_of, program_of
from terascope.fleet.reconciler import Limits
from terascope.fleet.replica import Replica
from terascope.fleet.scaling import Scaling, leavers
from terascope.fleet.serving import Counted, Serving, best, soonest_s, usable_modes
from terascope.fleet.slot import ServingState, Slot
from terascope.fleet.starts import Starts
from terascope.fleet.supervisor import Supervisor, Verify, no_check
from terascope.fleet.tunnel.gate import Gate, hashed, new_token
from terascope.fleet.tunnel.gateway_end import Tunnels
from terascope.store.database import Database
from terascope.store.replicas import ReplicaRow, ReplicaStore
from terascope.store.starts import StartStore

KEPT_ROWS = 20
"""Ended replicas of a deployment that are remembered, with their logs."""

_log = logging.getLogger(__name__)


class Fleet:
    """Keeps the replicas of all deployments; the request path asks it who takes requests.

    `launchers` are found by the names that configurations use; `verify` is asked about every replica before it
    gets requests; `limits` say how patient the fleet is; `programs` how engines are started.
    All runs in the event loop that called `start`.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        launchers: Mapping[str, Launcher],
        data_dir: Path,
        *,
        engine_kind: EngineKinds = registry.engine_kind,
        verify: Verify = no_check,
        limits: Limits | None = None,
        programs: Programs | None = None,
    ) -> None:
        self._programs = programs or Programs()
        self._store = ReplicaStore(database)
        self._clock = clock
        self._launchers = launchers
        self._data_dir = data_dir
        self._engine_kind = engine_kind
        self._verify = verify
        self._limits = limits or Limits()
        self._endpoints = Endpoints(data_dir)
        self.tunnels = Tunnels(clock)
        self.gate = Gate(database, self.tunnels)
        self._begun = False
        self._deployed: tuple[Deployed, ...] = ()
        self._slots: list[Slot] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._cleaned = asyncio.Event()
        self._listeners: list[Listener] = []
        self._told: dict[str, tuple[ReplicaStatus, str]] = {}  # what listeners know of each replica
        self._ready: dict[str, tuple[Replica, ...]] = {}
        self._hopeful: dict[str, bool] = {}
        self._changes: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._starts = Starts(StartStore(database), clock)
        self._resizing = asyncio.Lock()
        self.scaling = Scaling(clock, lambda: self._slots, self._resize)

    async def start(self, deployments: Wanted) -> None:
        """Begin to keep the replicas of `deployments`; return once their rows are there, not when they are ready.

        What an earlier life of the gateway left is stopped first, before any program is started. Raises
        `ConfigError` when a deployment is impossible; then nothing has been started. The caller holds the data
        directory's lock: a second fleet on it would stop the replicas of the first.
        """
        self._deployed = prepare(deployments, self._engine_kind, self._launchers, self._limits, self._programs)
        try:
            self._endpoints.open()
            (self._data_dir / "logs").mkdir(mode=0o700, exist_ok=True)
            left = await self._store.unfinished()
            await self._starts.read()
            await self._make_slots()
        except BaseException:
            self._slots = []
            self._endpoints.close()
            raise
        self._tasks = [asyncio.create_task(self._clean(left))]
        self._tasks += [asyncio.create_task(self._keep(slot)) for slot in self._slots]
        self._tasks.append(asyncio.create_task(self.scaling.run()))
        self._begun = True

    async def add(self, config: DeploymentConfig, version: ModelVersion) -> None:
        """Begin to keep the replicas of one more deployment; return once their rows are there.

        Raises `ConfigError` when it is impossible, or when its name is taken.
        """
        [one] = prepare([(config, version)], self._engine_kind, self._launchers, self._limits, self._programs)
        if one.name in {other.name for other in self._deployed}:
            raise ConfigError(f"there is a deployment {one.name!r} already")
        self._deployed += (one,)
        self.scaling.keep(one, config.bounds)
        await self._resize(one.name, config.bounds.rest)

    async def scale(self, name: str, replicas: int) -> None:
        """Keep so many replicas of a deployment; those over it finish what they are answering. Idempotent."""
        await self.bound(name, Bounds.fixed(replicas))

    async def bound(self, name: str, bounds: Bounds) -> None:
        """Keep a deployment within `bounds` from now on. Replicas over them finish what they are answering."""
        for one in self._deployed:
            if one.name == name:
                self.scaling.keep(one, bounds)
                kept = sum(slot.deployed is one and not slot.closing for slot in self._slots)
                await self._resize(name, min(bounds.most, max(bounds.rest, kept)))

    async def _resize(self, name: str, replicas: int) -> None:
        """Keep so many replicas, as far as the bounds of now allow; one change comes after the other."""
        async with self._resizing:
            bounds = self.scaling.bounds(name)
            wanted = max(bounds.least, min(bounds.most, replicas))
            kept = [slot for slot in self._slots if slot.deployed.name == name and not slot.closing]
            for slot in leavers(kept, wanted):
                slot.retire()
            for one in self._deployed:
                if one.name == name:
                    await self._grow(one, wanted - len(kept))

    async def remove(self, name: str) -> None:
        """Keep no replica of a deployment, and forget it; its replicas finish what they are answering."""
        await self.scale(name, 0)
        gone = {one.model for one in self._deployed if one.name == name}
        self._deployed = tuple(one for one in self._deployed if one.name != name)
        self.scaling.forget(name)
        for model in gone - self.served():
            self._ready.pop(model, None)
            self._hopeful.pop(model, None)
            self._changes.pop(model, asyncio.Event()).set()

    def preview(self, config: DeploymentConfig, version: ModelVersion) -> Preview:
        """Return what would be started for one replica; starts nothing. It may block. Raises `ConfigError`."""
        [one] = prepare([(config, version)], self._engine_kind, self._launchers, self._limits, self._programs)
        return preview(one, self._launchers)

    async def aclose(self) -> None:
        """Stop every replica (SIGTERM, then SIGKILL after `limits.grace_s`), cutting what they answer. Idempotent.

        Holds on return: nothing that this fleet started is left, but for what its launcher could not stop.
        """
        self.scaling.close()
        for slot in self._slots:
            slot.close()
        await asyncio.gather(*self._tasks)
        self._tasks = []
        await self.tunnels.aclose()
        self._endpoints.close()

    def replicas_for(self, public_name: str) -> tuple[Replica, ...]:
        """The replicas of `name@version` that take requests now."""
        return self._ready.get(public_name, ())

    def ready(self) -> tuple[Replica, ...]:
        """The replicas of all models that are ready, those too that get no requests because they are in doubt."""
        return tuple(replica for replica in self.replicas() if replica.row.status is ReplicaStatus.READY)

    def replicas(self) -> tuple[Replica, ...]:
        """One replica for each place that has one, whatever its status."""
        return tuple(slot.supervisor.replica for slot in self._slots if slot.supervisor)

    async def wait_for_change(self, public_name: str) -> None:
        """Return when other replicas of the model take requests than at the call, or hope was lost or regained."""
        await self._changes[public_name].wait()

    async def settled(self) -> None:
        """Return when every model that is served is ready, or not likely to become so."""
        for model in self.served():
            while self.status(model).state is ServingState.STARTING:
                await self.wait_for_change(model)

    def check_hope(self, public_name: str, waiting: Waiting | None = None) -> bool:
        """Return whether a replica of the model, that may take `waiting`, is ready or on its way.

        False means that none of its deployments is for such requests. Raises `ModelUnavailable`, with the reason, when
        none that is can be expected soon, or before `start`, and `ModelNotFound` for a model that no deployment serves.
        """
        if not self._begun:
            raise ModelUnavailable(f"{public_name} cannot be served yet: the gateway is starting", retry_after=1)
        if self._deployed and public_name not in self.served():
            raise ModelNotFound(f"{public_name} is not served here; GET /v1/models lists what is", param="model")
        names = [one.name for one in self._deployed if one.model == public_name]
        able = names if waiting is None else self.scaling.able(public_name, waiting)
        slots = [slot for slot in self._slots_of(public_name) if slot.deployed.name in able]
        serving = best(slots, cold=any(map(self._cold, able)))
        if serving.state in (ServingState.READY, ServingState.STARTING, ServingState.COLD):
            return True
        if names and not able:
            return False
        reason = serving.message or "no replica of it is wanted"
        wait = min((slot.retry_after_s for slot in slots), default=None)
        raise ModelUnavailable(f"{public_name} cannot be served now: {reason}", retry_after=wait)

    def coming_s(self, public_name: str) -> float | None:
        """In about how many seconds a replica of the model will be ready, as past starts tell; None: nothing tells."""
        deployed = [one for one in self._deployed if one.model == public_name]
        return soonest_s(self._starts, self._slots_of(public_name), deployed)

    def report_lost(self, replica: Replica) -> None:
        """A request could not reach the replica's engine: it gets no more until it has answered a probe, made now."""
        for slot in self._slots:
            if slot.supervisor and slot.supervisor.replica is replica:
                slot.supervisor.lost()

    def served(self) -> frozenset[str]:
        """Every `name@version` that has a deployment."""
        return frozenset(one.model for one in self._deployed)

    def deployments_for(self, public_name: str) -> tuple[DeploymentConfig, ...]:
        """The deployments of a model, as they are run."""
        return tuple(one.launch.deployment for one in self._deployed if one.model == public_name)

    def modes(self, public_name: str) -> frozenset[str]:
        """What a model may and can be used for: what its deployments allow and its engines offer."""
        deployed = [one for one in self._deployed if one.model == public_name]
        return usable_modes([one.launch for one in deployed], [one.info for one in self.replicas_for(public_name)])

    def context_length(self, public_name: str) -> int:
        """The longest prompt and answer together, in tokens, that every ready replica takes; 0 when none says."""
        lengths = (one.info.context_length for one in self.replicas_for(public_name) if one.info)
        return min(filter(None, lengths), default=0)

    def status(self, public_name: str) -> Serving:
        """How a model is served: the best of its replicas counts."""
        cold = any(self._cold(one.name) for one in self._deployed if one.model == public_name)
        return best(self._slots_of(public_name), cold=cold)

    def state(self, public_name: str) -> str:
        """The state of `status`."""
        return self.status(public_name).state

    def states(self) -> dict[str, str]:
        """The state of every deployment that wants replicas, by its name."""
        there = {slot.deployed.name for slot in self._slots}
        names = [one.name for one in self._deployed if one.name in there or self._cold(one.name)]
        return {name: self.count(name).state for name in names}

    def count(self, deployment: str) -> Counted:
        """How a deployment is served, by its name."""
        slots = [slot for slot in self._slots if slot.deployed.name == deployment]
        ready = sum(slot.state is ServingState.READY for slot in slots)
        serving = best(slots, cold=self._cold(deployment))
        return Counted(ready, sum(not slot.closing for slot in slots), serving.state, serving.message)

    def _cold(self, deployment: str) -> bool:
        """Whether it has no replica because nobody asks."""
        there = any(slot.deployed.name == deployment and not slot.closing for slot in self._slots)
        return not there and self.scaling.bounds(deployment).elastic

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Have `listener` told of every change from now on; return what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def _make_slots(self) -> None:
        for deployed in self._deployed:
            bounds = deployed.launch.deployment.bounds
            self.scaling.keep(deployed, bounds)
            for _ in range(bounds.rest):
                await self._make_slot(deployed)
        self._refresh()

    async def _make_slot(self, deployed: Deployed) -> Slot:
        slot = Slot(deployed, self._begin, self._clock, self._refresh)
        await slot.prepare()
        self._slots.append(slot)
        return slot

    async def _grow(self, deployed: Deployed, replicas: int) -> None:
        for _ in range(0 if self.scaling.closed else replicas):
            self._tasks.append(asyncio.create_task(self._keep(await self._make_slot(deployed))))
        self._refresh()

    async def _keep(self, slot: Slot) -> None:
        await self._cleaned.wait()
        await slot.run()
        self._slots = [one for one in self._slots if one is not slot]
        self._refresh()

    async def _clean(self, left: list[ReplicaRow]) -> None:
        """Stop what an earlier life left; what cannot be stopped stays in the store for the next."""
        try:
            await asyncio.gather(*(self._put_away(row) for row in left))
        except Exception:  # noqa: BLE001 - the edge of an earlier life: this one goes on
            _log.exception("what an earlier life of the gateway left could not be cleaned up")
        finally:
            self._cleaned.set()

    async def _put_away(self, row: ReplicaRow) -> None:
        if launcher := self._launchers.get(row.launcher):
            life = Life(row, launcher, self._store, self._clock, self._changed, self._limits)
            await put_away(life, self._limits)
            self._endpoints.remove(row.url)
        else:
            _log.warning("replica %s was started by launcher %s, which is not there any more", row.id, row.launcher)

    async def _begin(self, slot: Slot) -> Supervisor:
        """Make a new replica for `slot`: its row is stored, nothing is started yet."""
        deployed = slot.deployed
        token = new_token()
        replica = self._new_replica(deployed, slot.restarts, hashed(token))
        await self._store.add(replica.row)
        for old in await self._store.prune(deployed.name, KEPT_ROWS):
            log_file(self._data_dir, old).unlink(missing_ok=True)

        def changed(row: ReplicaRow) -> None:
            replica.row = row
            if row.status.final:
                self._endpoints.remove(row.url)
                self._programs.node.free(row.id)
                self.tunnels.forget(row.id)
            self._changed(row)

        life = Life(replica.row, deployed.launcher, self._store, self._clock, changed, deployed.limits)
        program = program_of(deployed, replica, self._data_dir, token if replica.row.agent_hash else "")
        arrived = partial(self._starts.add, replica.id, deployed)
        need = self._programs.need(deployed.launch.deployment, deployed.launch.version)
        take = partial(self._programs.node.take, replica.id, need)
        return Supervisor(life, replica, program, self._clock, deployed.limits, self._verify, arrived, take)

    def _new_replica(self, deployed: Deployed, restarts: int, agent_hash: str) -> Replica:
        replica_id, config = new_id("replica"), deployed.launch.deployment
        place = None if deployed.external else deployed.launcher.place(replica_id)
        endpoint = endpoint_of(deployed, replica_id, place, self._endpoints, self.tunnels)
        now = self._clock.now()
        row = ReplicaRow(
            id=replica_id,
            deployment=deployed.name,
            model=deployed.model,
            engine=config.engine,
            launcher=deployed.launcher_name,
            url=endpoint.url,
            message="waits to be started",
            restarts=restarts,
            created=now,
            changed=now,
            agent_hash=agent_hash if endpoint.url.startswith(TUNNEL) else "",
        )
        engine = deployed.kind.connect(deployed.launch, endpoint)
        return Replica(row, deployed.launch, endpoint, engine, place.listen if place else "")

    def _changed(self, row: ReplicaRow) -> None:
        self._refresh()
        news = (row.status, row.message)
        if self._told.get(row.id) == news:
            return
        self._told[row.id] = news
        if row.status.final:
            del self._told[row.id]
        for listener in tuple(self._listeners):
            try:
                listener(row, row.message)
            except Exception:  # noqa: BLE001 - the edge to whoever listens: a replica does not die of a display
                _log.exception("a listener failed")

    def _refresh(self) -> None:
        """Bring `replicas_for` up to date, and wake whoever waits for a model whose prospects changed."""
        for model in self.served():
            slots = list(self._slots_of(model))
            replicas = (slot.supervisor.replica for slot in slots if slot.supervisor)
            ready = tuple(replica for replica in replicas if replica.takes_requests)
            self.scaling.infos |= {one.row.deployment: one.info for one in ready if one.info}
            hopeful = any(slot.hopeful for slot in slots) or self.status(model).state is ServingState.COLD
            if (ready, hopeful) != (self._ready.get(model), self._hopeful.get(model)):
                self._ready[model], self._hopeful[model] = ready, hopeful
                self._changes.pop(model, asyncio.Event()).set()

    def _slots_of(self, public_name: str) -> Iterable[Slot]:
        return (slot for slot in self._slots if slot.deployed.model == public_name)

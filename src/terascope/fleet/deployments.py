"""Deployments that operators make while the gateway runs; they outlive it, beside those of its configuration."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from terascope.catalog.catalog import Catalog
from terascope.core.bounds import Bounds
from terascope.core.clock import Clock
from terascope.core.config import DeploymentConfig, LayoutConfig
from terascope.core.errors import BadRequest, ConfigError, Conflict, ModelNotFound, NotFound, ServiceError
from terascope.core.models import Mode, ModelVersion
from terascope.core.states import DeploymentTarget
from terascope.fleet.deployed import check_numbers
from terascope.fleet.fleet import Fleet
from terascope.fleet.logs import log_file, log_of_rank, read_log_file, tail
from terascope.fleet.preview import Preview
from terascope.fleet.tunnel.gateway_end import read_log
from terascope.store.audit import AuditRow, AuditStore
from terascope.store.database import Database
from terascope.store.deployments import DeploymentRow, DeploymentStore, not_found
from terascope.store.replicas import ReplicaRow, ReplicaStore

_OF_FILES = ("torch", "vllm", "openvino")
"""Engines that run a model from its files."""
_ACTIONS = {"deployment.create": "created", "deployment.change": "changed", "deployment.remove": "removed"}
_NUMBERS = ("replicas", "min", "max", "hot", "idle_s")
_NONE: dict[str, Any] = {"replicas": 0, "min": None, "max": None, "hot": 0}


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployment as it is wanted. `declared`: it stands in the configuration, and is changed there."""

    config: DeploymentConfig
    target: DeploymentTarget
    declared: bool
    created: float = 0.0
    changed: float = 0.0


@dataclass(frozen=True, slots=True)
class Event:
    """What happened, at a time in seconds of the epoch: to a replica its status, to the deployment what was done."""

    time: float
    replica: str
    what: str
    message: str


async def version_of(catalog: Catalog, deployment: DeploymentConfig) -> ModelVersion:
    """The catalogued version a deployment means; a model whose weights only its engine has is entered now.

    Raises `ModelNotFound`, and `ConfigError` for an adapter.
    """
    try:
        found = catalog.find(deployment.model)
        if found.parent:
            raise ConfigError(f"{deployment.model} is an adapter; it is served wherever {found.parent} is deployed")
        return found
    except ModelNotFound:
        if deployment.engine in _OF_FILES:
            raise
    name, _, version = deployment.model.partition("@")
    source = f"remote:{deployment.url}" if deployment.url else f"{deployment.engine}:{name}"
    return await catalog.add_remote(name, source, version=version, context_length=deployment.context_length)


class Deployments:
    """Makes, changes and removes deployments, in the store and in the fleet. Changes come one after the other."""

    def __init__(
        self,
        database: Database,
        fleet: Fleet,
        catalog: Catalog,
        clock: Clock,
        data_dir: Path,
        declared: Collection[DeploymentConfig],
    ) -> None:
        """`declared`: those of the configuration, each with its name."""
        self._store = DeploymentStore(database)
        self._replicas = ReplicaStore(database)
        self._audit = AuditStore(database)
        self._fleet = fleet
        self._catalog = catalog
        self._clock = clock
        self._data_dir = data_dir
        self._declared = {one.name: one for one in declared}
        self._changing = asyncio.Lock()
        self.failed: dict[str, str] = {}
        """Why those are not served that were made earlier and are not possible now, by their names."""

    async def all(self) -> list[Deployment]:
        """Return all of them: those of the configuration first."""
        declared = [Deployment(one, DeploymentTarget.RUNNING, declared=True) for one in self._declared.values()]
        made = [_deployment(row) for row in await self._store.all() if row.name not in self._declared]
        return [*declared, *made]

    async def get(self, name: str) -> Deployment:
        """Return one by its name. Raises `NotFound`."""
        for one in await self.all():
            if one.config.name == name:
                return one
        raise not_found(name)

    async def create(self, config: DeploymentConfig) -> Deployment:
        """Store a deployment and begin to keep its replicas.

        Raises `Conflict` when its name is taken, `ModelNotFound`, and `BadRequest` when it is impossible.
        """
        async with self._changing:
            self._own(config.name)
            version = await self._possible(config)
            now = self._clock.now()
            row = DeploymentRow(config.name, asdict(config), DeploymentTarget.RUNNING, now, now)
            await self._store.add(row)
            await self._fleet.add(config, version)
            return _deployment(row)

    async def put(self, config: DeploymentConfig) -> tuple[Deployment, bool]:
        """Make a deployment what `config` says, or a new one; return whether anything had to change.

        Where only their number differs, or what it follows, the replicas go on; else all of them are followed by new
        ones. Raises as `create` does.
        """
        before = next((row for row in await self._store.all() if row.name == config.name), None)
        if before is None:
            return await self.create(config), True
        async with self._changing:
            self._own(config.name)
            version, was = await self._possible(config), _deployment(before)
            if (was.config, was.target) == (config, DeploymentTarget.RUNNING):
                return was, False
            row = await self._save(replace(before, settings=asdict(config), target=DeploymentTarget.RUNNING))
            if replace(was.config, **{name: getattr(config, name) for name in _NUMBERS}) == config:
                await self._follow(row)
            else:
                await self._fleet.remove(config.name)
                self.failed.pop(config.name, None)
                await self._fleet.add(config, version)
            return _deployment(row), True

    async def scale(
        self, name: str, replicas: int | None = None, *, least: int | None = None, most: int | None = None
    ) -> Deployment:
        """Keep so many replicas, or from `least` to `most` by the load; a stopped deployment runs again.

        Raises `NotFound`, `Conflict` for a declared one, and `BadRequest` for numbers that contradict each other.
        """
        return await self._change(name, DeploymentTarget.RUNNING, _scaled(replicas, least, most))

    async def stop(self, name: str) -> Deployment:
        """Keep no replica until it is scaled again; those there are finish what they are answering."""
        return await self._change(name, DeploymentTarget.STOPPED, {})

    async def remove(self, name: str) -> None:
        """Forget a deployment; its replicas finish what they are answering. Raises as `scale` does."""
        async with self._changing:
            self._own(name)
            await self._store.remove(name)
            self.failed.pop(name, None)
            await self._fleet.remove(name)

    async def preview(self, config: DeploymentConfig) -> Preview:
        """Return what would be started for a replica. Raises as `create` does; nothing is stored or started."""
        return await asyncio.to_thread(self._fleet.preview, config, await self._possible(config))

    async def replicas(self, name: str) -> list[ReplicaRow]:
        """Return the replicas of a deployment, those that ended lately too, oldest first."""
        return await self._replicas.of(name)

    async def events(self, name: str, limit: int) -> list[Event]:
        """Return what happened to a deployment and its replicas, newest first; also of one that was removed.

        Raises `NotFound` when nothing is known of it.
        """
        replicas = [
            Event(one.time, one.replica, one.status, one.message) for one in await self._replicas.events(name, limit)
        ]
        changes = [_change_of(row) for row in await self._audit.newest(limit, target=name) if row.action in _ACTIONS]
        if not replicas and not changes:
            await self.get(name)
        return sorted([*changes, *replicas], key=lambda one: one.time, reverse=True)[:limit]

    async def log(self, name: str, replica: str = "", lines: int = 200, rank: int = 0) -> str:
        """Return the last lines of a replica's log, of the newest replica when none is named.

        `rank` is the node's, where the replica has several. Raises `NotFound`.
        """
        log = await self._log(await self._replica(name, replica), rank)
        text, _ = await asyncio.to_thread(tail, log, lines)
        return text.decode(errors="replace")

    async def follow_log(self, name: str, replica: str = "", lines: int = 200, rank: int = 0) -> AsyncIterator[bytes]:
        """Return pieces of what `log` returns, and then of what is added to it: until the caller closes it.

        Of a replica behind a tunnel its agent reads it, and it ends when the tunnel is lost. Raises `NotFound`.
        """
        row = await self._replica(name, replica)
        log = await self._log(row, rank)
        end = self._fleet.tunnels.find(row.id)
        if end is not None and end.connected:
            return read_log(end, lines=lines, follow=True, rank=rank)
        return read_log_file(log, lines, follow=True, clock=self._clock)

    async def _log(self, row: ReplicaRow, rank: int) -> Path:
        first = log_file(self._data_dir, row.id)
        if not rank:
            return first
        log = log_of_rank(await asyncio.to_thread(first.resolve), rank)  # a job's log lies in the launch's directory
        if not await asyncio.to_thread(log.exists):
            raise NotFound(f"replica {row.id} has no log of rank {rank}: it has fewer nodes, or that has not begun yet")
        return log

    async def _replica(self, name: str, replica: str) -> ReplicaRow:
        rows = [row for row in await self._replicas.of(name) if replica in ("", row.id)]
        if not rows:
            raise NotFound(f"deployment {name[:60]!r} has no such replica")
        return rows[-1]

    async def begin(self, show: Callable[[str, str], None]) -> None:
        """Begin to keep those that were made in an earlier life; tell `show` of each that is impossible now."""
        for one in await self.all():
            if one.declared:
                continue
            config = one.config if one.target is DeploymentTarget.RUNNING else replace(one.config, **_NONE)
            try:
                await self._fleet.add(config, await version_of(self._catalog, config))
            except ServiceError as error:
                self.failed[config.name] = error.message
                show(config.name, f"failed: {error.message}")

    async def _change(self, name: str, target: DeploymentTarget, numbers: Mapping[str, int | None]) -> Deployment:
        async with self._changing:
            self._own(name)
            before = next((row for row in await self._store.all() if row.name == name), None)
            if before is None:
                raise not_found(name)
            settings = {**before.settings, **numbers}
            _check_numbers(_config(settings))
            row = await self._save(replace(before, settings=settings, target=target))
            await self._follow(row)
            return _deployment(row)

    async def _follow(self, row: DeploymentRow) -> None:
        """Have the fleet keep what `row` wants."""
        one = _deployment(row)
        bounds = one.config.bounds if one.target is DeploymentTarget.RUNNING else Bounds.fixed(0)
        if self.failed.pop(row.name, "") and bounds.most:
            await self._fleet.add(one.config, await self._possible(one.config))
        else:
            await self._fleet.bound(row.name, bounds)

    async def _save(self, row: DeploymentRow) -> DeploymentRow:
        changed = replace(row, changed=self._clock.now())
        await self._store.update(changed)
        return changed

    async def _possible(self, config: DeploymentConfig) -> ModelVersion:
        if unknown := set(config.modes) - set(Mode):
            raise BadRequest(f"there is no mode {min(unknown)!r}; choose from {', '.join(Mode)}", param="modes")
        try:
            version = await version_of(self._catalog, config)
            await asyncio.to_thread(self._fleet.preview, config, version)
        except ConfigError as error:
            raise BadRequest(error.message) from None
        return version

    def _own(self, name: str) -> None:
        if name in self._declared:
            raise Conflict(f"deployment {name!r} stands in the configuration; change it there", param="name")


def _deployment(row: DeploymentRow) -> Deployment:
    return Deployment(_config(row.settings), row.target, False, row.created, row.changed)


def _change_of(row: AuditRow) -> Event:
    told = ", ".join(f"{name} {value}" for name, value in row.details.items() if value not in (None, ""))
    return Event(row.time, "", _ACTIONS[row.action], ": ".join(filter(None, [f"by {row.user_id}", told])))


def _scaled(replicas: int | None, least: int | None, most: int | None) -> dict[str, int | None]:
    """The settings that are to change: what is given; a number alone ends what followed the load before."""
    changed = {"min": least, "max": most} | ({} if replicas is None else {"replicas": replicas})
    return changed | ({"hot": 0} if least is most is None else {})


def _check_numbers(config: DeploymentConfig) -> None:
    try:
        check_numbers(config.name, config)
    except ConfigError as error:
        raise BadRequest(error.message) from None


def _config(settings: Any) -> DeploymentConfig:
    return DeploymentConfig(**{**settings, "layout": LayoutConfig(**settings.get("layout", {}))})

"""Puts the rooms together: opens them in order, closes them in reverse."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from terascope.access.access import Access
from terascope.access.artefacts import Artefacts
from terascope.access.issuers import checked_issuers
from terascope.catalog.catalog import Catalog
from terascope.cli import settings
from terascope.cli.files import make_private
from terascope.core.clock import Clock, SystemClock
from terascope.core.config import Config, DeploymentConfig, SchedulerConfig
from terascope.core.errors import ConfigError, ServiceError
from terascope.core.models import Mode, ModelVersion
from terascope.core.projects import Qos
from terascope.engines import registry
from terascope.files.blobs import open_blobs
from terascope.files.files import Files
from terascope.fleet.deployed import EngineKinds, Programs
from terascope.fleet.deployments import Deployments, version_of
from terascope.fleet.fleet import Fleet
from terascope.fleet.hardware import hardware
from terascope.fleet.launchers.contract import Launcher
from terascope.fleet.launchers.registry import all_launchers, choose, launcher_of
from terascope.fleet.lock import DirectoryLock
from terascope.fleet.node import Node
from terascope.gateway.metrics import Metrics
from terascope.gateway.services import Services
from terascope.inference.inference import Inference
from terascope.inference.turns import Turns
from terascope.provenance.recorder import Recorder
from terascope.retrieval.lance import LanceCollections, check_installed
from terascope.retrieval.retrieval import Retrieval
from terascope.retrieval.retrieval import Rooms as RetrievalRooms
from terascope.scheduler.usage import Usage
from terascope.store.blobs import Blobs
from terascope.store.database import Database, checked
from terascope.store.runs import RunStore
from terascope.store.tuning import TuningStore
from terascope.tuning.attempt import TRAINER, Attempt
from terascope.tuning.carrying import Rooms
from terascope.tuning.results import Results
from terascope.tuning.tuning import Tuning

Show = Callable[[str, str], None]
"""Takes a model's or deployment's name and what is happening to it."""


@asynccontextmanager
async def opened(
    config: Config,
    data_dir: Path,
    cache_dir: Path,
    *,
    clock: Clock | None = None,
    engine_kind: EngineKinds = registry.engine_kind,
    trainer: str = TRAINER,
) -> AsyncIterator[Services]:
    """The services of a gateway over `data_dir`, which no other gateway may use meanwhile.

    `engine_kind` finds engines by the names that deployments use; `trainer` is the module that carries out jobs.

    Holds on leaving, however: every process that was started is gone, and everything submitted is written.
    Raises `ConfigError` when a deployment is impossible, when another gateway holds the data directory, or when
    it cannot be made.
    """
    clock = clock or SystemClock()
    launchers, programs = all_launchers(clock, config.sites), _programs(config)
    _check(config, launchers, engine_kind)
    async with AsyncExitStack() as stack:
        make_private(data_dir)
        _lock(settings.database_url(config, data_dir), data_dir, stack)
        database = await Database.open(settings.database_url(config, data_dir), durability=config.database.durability)
        stack.push_async_callback(database.aclose)
        access = Access(database, clock, config.accounting, config.limits, config.auth.issuers)
        stack.push_async_callback(access.accounts.aclose)
        catalog = await Catalog.open(database, cache_dir, clock)
        catalog.expect(_names(config))  # requests may come before `deploy` is through
        fleet = Fleet(database, clock, launchers, data_dir, engine_kind=engine_kind, programs=programs)
        stack.push_async_callback(fleet.aclose)
        files = await _files(config, database, data_dir, clock, stack)
        recorder = Recorder(RunStore(database), config.records, clock)
        metrics = Metrics()
        await access.reservations.look()
        usage = await _usage(config, access, clock)
        turns = Turns(fleet, config.server, clock, usage, config.scheduler, access.reservations.reserved)
        metrics.watch(turns.waiting, fleet.replicas)
        artefacts = Artefacts(database, Blobs(data_dir / "artefacts"), access.projects, clock)
        inference = Inference(
            access, catalog, turns, recorder, config.server, clock, metrics.count, artefacts, config.internals, files
        )
        deployments = Deployments(database, fleet, catalog, clock, data_dir, _named(config))
        starting = {one.name: "starting" for one in _named(config)}
        rooms = (access, catalog, files, recorder, artefacts)
        tuning = await _tuning(config, data_dir, clock, database, launchers["local"], rooms, trainer, stack)
        known = RetrievalRooms(database, access, catalog, fleet, files, inference, config, clock)
        opened = (config, clock, access, catalog, fleet, inference, recorder, files, metrics)
        yield Services(*opened, starting, artefacts, deployments, tuning, _retrieval(known, data_dir, stack))


async def deploy(services: Services, show: Show) -> None:
    """Bring up what the configuration declares: models into the catalogue, deployments into the fleet.

    A model that cannot be had fails its own deployments, which say why, and no others. Returns when the fleet
    has begun to start replicas. Raises `ConfigError` when a deployment is impossible.
    """
    config = services.config
    failures = {name: reason for name in config.models if (reason := await _add(services, name, show))}
    wanted: list[tuple[DeploymentConfig, ModelVersion]] = []
    for deployment in config.deployments:
        try:
            if why := failures.get(deployment.model.partition("@")[0]):
                raise ConfigError(why)
            wanted.append((replace(deployment, name=_name(deployment)), await version_of(services.catalog, deployment)))
        except ServiceError as error:
            services.preparing[_name(deployment)] = "failed"
            show(_name(deployment), f"failed: {error.message}")
    await services.fleet.start(wanted)
    services.catalog.expect(())
    for deployment, _ in wanted:
        services.preparing.pop(_name(deployment), None)
    await services.deployments.begin(show)


def _names(config: Config) -> Iterator[str]:
    """The names and aliases of models that the configuration brings."""
    for name, model in config.models.items():
        yield from (name, *model.aliases)
    yield from (deployment.model.partition("@")[0] for deployment in config.deployments)


async def _add(services: Services, name: str, show: Show) -> str:
    """Put a configured model into the catalogue; return why that failed, or nothing."""
    model = services.config.models[name]

    def progress(message: str, fraction: float | None) -> None:
        show(name, message if fraction is None else f"{message} {int(fraction * 4) * 25} %")

    try:
        await services.catalog.add(
            name, model.source, version=model.version, aliases=tuple(model.aliases), progress=progress
        )
    except ServiceError as error:
        show(name, f"failed: {error.message}")
        return error.message
    return ""


async def _tuning(
    config: Config,
    data_dir: Path,
    clock: Clock,
    database: Database,
    launcher: Launcher,
    rooms: tuple[Access, Catalog, Files, Recorder, Artefacts],
    trainer: str,
    stack: AsyncExitStack,
) -> Tuning:
    """Fine-tuning, going on with what an earlier gateway left."""
    access, catalog, files, recorder, artefacts = rooms
    store = TuningStore(database)
    results = Results(catalog, artefacts, data_dir / "adapters")
    attempt = Attempt(launcher, store, clock, data_dir, trainer=trainer)
    needed = Rooms(
        store, files, catalog, access.projects, access.accounts, recorder, results, attempt, config.tuning, clock,
        data_dir,
    )  # fmt: skip
    tuning = Tuning(access, needed)
    stack.push_async_callback(tuning.aclose)
    await tuning.resume()
    return tuning


def _retrieval(rooms: RetrievalRooms, data_dir: Path, stack: AsyncExitStack) -> Retrieval:
    """The vector stores."""
    retrieval = Retrieval(rooms, LanceCollections(data_dir / "collections"), check_installed)
    stack.push_async_callback(retrieval.aclose)
    return retrieval


async def _files(config: Config, database: Database, data_dir: Path, clock: Clock, stack: AsyncExitStack) -> Files:
    """The files, without what an earlier gateway left half-written."""
    blobs = open_blobs(config.files.url, config.files.options, data_dir / "files")
    stack.push_async_callback(blobs.aclose)
    files = Files(database, blobs, config.files, clock)
    if (
        not config.files.url
    ):  # into a data directory nobody else writes; elsewhere `keep_tidying` does it, with patience
        await files.tidy(grace_s=0.0)
    return files


def _lock(database_url: str, data_dir: Path, stack: AsyncExitStack) -> None:
    """Hold the data directory, and the file of a SQLite database elsewhere. Raises `ConfigError`."""
    locks = [DirectoryLock(data_dir)]
    url = checked(database_url)
    if url.get_backend_name() == "sqlite" and url.database:
        locks.append(DirectoryLock(Path(url.database).absolute().parent, Path(url.database).name))
    for lock in locks:
        lock.acquire()
        stack.callback(lock.release)


def _programs(config: Config) -> Programs:
    """How engines are started, and what there is for them on this machine."""
    return Programs(config.engines, config.sites, Node(hardware(config.node)))


async def _usage(config: Config, access: Access, clock: Clock) -> Usage:
    """What projects have used, from the ledger: fair shares outlive the gateway."""
    half_life_s = config.scheduler.half_life_h * 3600
    usage = Usage(half_life_s, clock.monotonic)
    for project, used in (await access.allocations.recently_used(half_life_s)).items():
        usage.add(project, used)
    for row in await access.projects.all():
        usage.set_shares(row.name, row.shares)
    return usage


def _check(config: Config, launchers: Mapping[str, Launcher], engine_kind: EngineKinds) -> None:
    """Refuse what is impossible before anything is fetched or started; the fleet looks closer."""
    for deployment in config.deployments:
        engine_kind(deployment.engine)
        choose(launchers, launcher_of(deployment))
        if unknown := set(deployment.modes) - set(Mode):
            raise ConfigError(f"there is no mode {min(unknown)!r}; choose from {', '.join(Mode)}")
    _check_scheduler(config.scheduler)
    if unknown := set(config.limits.qos) - set(Qos):
        raise ConfigError(f"limits.qos has {min(unknown)!r}; choose from {', '.join(Qos)}")
    checked_issuers(config.auth.issuers)
    names = [_name(deployment) for deployment in config.deployments]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two deployments are called {', '.join(twice)}; give each a `name` of its own")


def _check_scheduler(config: SchedulerConfig) -> None:
    if unknown := set(config.floors) - set(Qos):
        raise ConfigError(f"scheduler.floors has {min(unknown)!r}; choose from {', '.join(Qos)}")
    if min(config.floors.values(), default=0) < 0 or sum(config.floors.values()) >= 1:
        raise ConfigError("scheduler.floors must be parts of a whole: none below 0, and together below 1")
    if not config.half_life_h > 0:
        raise ConfigError(f"scheduler.half_life_h is {config.half_life_h:g}; write a number of hours above 0")


def _named(config: Config) -> list[DeploymentConfig]:
    """The deployments that the configuration declares, each with its name."""
    return [replace(deployment, name=_name(deployment)) for deployment in config.deployments]


def _name(deployment: DeploymentConfig) -> str:
    return deployment.name or deployment.model.partition("@")[0]

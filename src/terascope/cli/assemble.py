"""Puts the rooms together: opens them in order, closes them in reverse."""

import fcntl
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from terascope.access.access import Access
from terascope.access.keys import Keys
from terascope.catalog.catalog import Catalog
from terascope.core.clock import Clock, SystemClock
from terascope.core.config import Config, DeploymentConfig
from terascope.core.errors import ConfigError, Conflict, ModelNotFound, ServiceError
from terascope.core.models import ModelVersion
from terascope.fleet.fleet import Fleet
from terascope.gateway.metrics import Metrics
from terascope.gateway.services import Services
from terascope.inference.inference import Inference
from terascope.inference.turns import Turns
from terascope.provenance.recorder import Recorder
from terascope.store.database import Database, sqlite_url
from terascope.store.keys import KeyStore
from terascope.store.runs import RunStore

Show = Callable[[str, str], None]
"""Takes a deployment's name and what is happening to it."""


@asynccontextmanager
async def opened(
    config: Config, data_dir: Path, cache_dir: Path, *, clock: Clock | None = None, show: Show | None = None
) -> AsyncIterator[Services]:
    """The services of a gateway over `data_dir`, which no other gateway may use meanwhile.

    Holds on leaving, however: every process that was started is gone, and everything submitted is written.
    Raises `Conflict` when another gateway holds the data directory.
    """
    clock = clock or SystemClock()
    async with AsyncExitStack() as stack:
        _make_private(data_dir)
        stack.enter_context(_only_one(data_dir))
        database = await _database(config, data_dir)
        stack.push_async_callback(database.aclose)
        access = Access(Keys(KeyStore(database), clock))
        catalog = await Catalog.open(database, cache_dir, clock)
        fleet = await Fleet.open(database, clock, data_dir=data_dir, show=show or (lambda _name, _message: None))
        stack.push_async_callback(fleet.aclose)
        recorder = Recorder(RunStore(database), config.records, clock)
        metrics = Metrics()
        turns = Turns(fleet, config.server)
        inference = Inference(access, catalog, turns, recorder, config.server, clock, metrics.count)
        yield Services(config, clock, access, catalog, fleet, inference, recorder, metrics)


async def deploy(services: Services, show: Show) -> None:
    """Bring up what the configuration declares: models into the catalogue, deployments into the fleet.

    A model that cannot be had fails its own deployments, which say why, and no others.
    """
    config = services.config
    for deployment in config.deployments:
        services.fleet.expect(deployment)
    for name, model in config.models.items():
        if any(_is_of(deployment, name) for deployment in config.deployments):
            continue  # fetched below, with its deployment
        await _add(services, name, show)
    for deployment in config.deployments:
        try:
            version = await _version(services, deployment, show)
            await services.fleet.deploy(deployment, version)
        except ServiceError as error:
            services.fleet.give_up(deployment, error.message)
            show(deployment.name or deployment.model, f"failed: {error.message}")


async def _version(services: Services, deployment: DeploymentConfig, show: Show) -> ModelVersion:
    name = deployment.model.partition("@")[0]
    if name in services.config.models and services.config.models[name].source:
        await _add(services, name, show)
    elif deployment.engine != "torch":
        return await _held_elsewhere(services, deployment)
    return services.catalog.resolve(deployment.model)


async def _add(services: Services, name: str, show: Show) -> None:
    model = services.config.models[name]

    def progress(message: str, fraction: float | None) -> None:
        show(name, message if fraction is None else f"{message} {fraction:.0%}")

    await services.catalog.add(
        name, model.source, version=model.version, aliases=tuple(model.aliases), progress=progress
    )


async def _held_elsewhere(services: Services, deployment: DeploymentConfig) -> ModelVersion:
    """A model whose weights only its engine has: catalogued by where it is."""
    try:
        return services.catalog.resolve(deployment.model)
    except ModelNotFound:
        name, _, version = deployment.model.partition("@")
        source = f"{deployment.engine}:{deployment.url}"
        return await services.catalog.add_remote(
            name, source, version=version, context_length=deployment.context_length
        )


def _is_of(deployment: DeploymentConfig, name: str) -> bool:
    return deployment.model.partition("@")[0] == name


async def _database(config: Config, data_dir: Path) -> Database:
    url = config.database.url or sqlite_url(data_dir / "terascope.db")
    return await Database.open(url, durability=config.database.durability)


def _make_private(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the data directory {directory}: {error.strerror}") from None


@contextmanager
def _only_one(data_dir: Path) -> Iterator[None]:
    """Hold the data directory's lock; the kernel releases it with the process, however that ends."""
    with (data_dir / "gateway.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise Conflict(
                f"another gateway (process {lock.read(20).strip() or 'unknown'}) uses {data_dir}; "
                "stop it, or give this one another --data-dir"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield

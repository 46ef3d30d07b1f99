"""A whole gateway for tests: the real application on a real port, with the engines that the test names."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from terascope.access.scopes import OPERATOR
from terascope.cli.assemble import deploy, opened
from terascope.cli.serve import bound, operator_file
from terascope.core.config import Config, DeploymentConfig
from terascope.engines import registry
from terascope.fleet.deployed import EngineKinds
from terascope.gateway.app import Gateway
from terascope.gateway.server import server
from terascope.gateway.services import Services
from terascope.testing.databases import new_sqlite

ECHO = Config(deployments=[DeploymentConfig(model="echo", engine="echo", launcher="inprocess")])
"""One deployment of the echo engine, in process."""


@dataclass(frozen=True, slots=True)
class Served:
    """A gateway that answers at `url`; `key` is an operator's."""

    url: str
    key: str
    data_dir: Path
    services: Services

    @property
    def headers(self) -> dict[str, str]:
        """What a request with the operator's key carries."""
        return {"Authorization": f"Bearer {self.key}"}


@asynccontextmanager
async def serving(
    config: Config = ECHO,
    *,
    data_dir: Path,
    cache_dir: Path | None = None,
    wait: bool = True,
    engine_kind: EngineKinds = registry.engine_kind,
) -> AsyncIterator[Served]:
    """A gateway in the running event loop; with `wait`, its deployments are ready or have failed on entry."""
    config = replace(
        config, server=replace(config.server, port=config.server.port if config.server.port != 8000 else 0)
    )
    if not config.database.url:
        new_sqlite(data_dir / "terascope.db")
    with bound(config.server.host, config.server.port) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}{config.server.root_path}"
        async with opened(config, data_dir, cache_dir or data_dir / "cache", engine_kind=engine_kind) as services:
            running = server(Gateway(services), config.server)
            task = asyncio.create_task(running.serve(sockets=[listening]))
            try:
                key, _ = await services.access.keys.create("tests", [OPERATOR])
                await deploy(services, lambda _name, _message: None)
                if wait:
                    await services.fleet.settled()
                with operator_file(data_dir, url, services.access.local_token):
                    yield Served(url, key, data_dir, services)
            finally:
                running.stop()
                await task


@contextmanager
def running_gateway(
    config: Config = ECHO, *, data_dir: Path | None = None, cache_dir: Path | None = None
) -> Iterator[Served]:
    """A gateway in a thread of its own, for clients that block."""
    with TemporaryDirectory(prefix="terascope-") as temporary:
        yield from _threaded(config, data_dir or Path(temporary), cache_dir)


def _threaded(config: Config, data_dir: Path, cache_dir: Path | None) -> Iterator[Served]:
    started = threading.Event()
    found: list[Served | BaseException] = []
    ended = asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        async with serving(config, data_dir=data_dir, cache_dir=cache_dir) as served:
            found.append(served)
            started.set()
            await ended.wait()

    def work() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:  # noqa: BLE001 - carried over to the test's thread
            found.append(error)
            started.set()

    thread = threading.Thread(target=work, name="gateway")
    thread.start()
    started.wait()
    try:
        if isinstance(found[0], BaseException):
            raise found[0]
        yield found[0]
    finally:
        if isinstance(found[0], Served):
            loops[0].call_soon_threadsafe(ended.set)
        thread.join()
        if isinstance(found[-1], BaseException):
            raise found[-1]

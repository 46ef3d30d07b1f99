"""Every test here asks over HTTP, through the whole gateway, an engine that fails as it is told."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import pytest
import pytest_asyncio
import uvloop

from terascope.core.config import ServerConfig
from terascope.testing.between import Between, between

IMPATIENT = ServerConfig(idle_timeout_s=0.5, heartbeat_s=0.1, wait_timeout_s=1.0)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The event loop that `terascope serve` uses."""
    return {"uvloop": uvloop.new_event_loop}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A hang is what many of these tests look for: it must not take long to find."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(30))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def through(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Between]:
    """A client, a gateway with its default settings, one engine; the tests of a module share them."""
    async with between(tmp_path_factory.mktemp("data")) as one:
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def impatient(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Between]:
    """The same with limits of less than a second, and two engines."""
    async with between(tmp_path_factory.mktemp("data"), engines=2, server=IMPATIENT) as one:
        yield one


@pytest.fixture(autouse=True)
def _engines_as_they_were(request: pytest.FixtureRequest) -> Iterator[None]:
    """Engines that a test made fail whatever they are asked are well again after it; nothing is held against them."""
    yield
    for name in {"through", "impatient"} & set(request.fixturenames):
        shared: Between = request.getfixturevalue(name)
        for engine in shared.engines:
            engine.fault = engine.ill = ""
        for replica in shared.gateway.services.fleet.ready():
            replica.breaker.succeeded()

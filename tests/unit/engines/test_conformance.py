"""The conformance suite over every engine that needs no weights."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from terascope.engines.contract import Endpoint, Engine
from terascope.engines.echo.adapter import EchoEngine
from terascope.engines.echo.httpd import HttpServer
from terascope.engines.echo.model import Settings
from terascope.engines.echo.server import EchoServer
from terascope.engines.remote.adapter import RemoteEngine
from terascope.engines.upstream import HttpEngine
from terascope.testing.engine_repeats import check_reproducible
from terascope.testing.engine_subject import Subject
from terascope.testing.engines import ENGINE_CHECKS, EngineCheck, check_engine

_MODEL, _SECRET = "echo-model", "a secret"
_SETTINGS = Settings(_MODEL, context_length=5000)

Opened = Callable[[Path], AbstractAsyncContextManager[Engine]]


@asynccontextmanager
async def in_process(_directory: Path) -> AsyncIterator[Engine]:
    yield EchoEngine(_SETTINGS)


@asynccontextmanager
async def served(directory: Path, *, unix: bool) -> AsyncIterator[Endpoint]:
    server = HttpServer(EchoServer(_SETTINGS, secret=_SECRET).handle)
    await server.listen(path=directory / "echo.sock" if unix else None)
    yield Endpoint(server.url, _SECRET)
    await server.aclose()


@asynccontextmanager
async def over_unix(directory: Path) -> AsyncIterator[Engine]:
    async with served(directory, unix=True) as endpoint:
        yield HttpEngine(endpoint, served_name=_MODEL)


@asynccontextmanager
async def over_tcp(directory: Path) -> AsyncIterator[Engine]:
    async with served(directory, unix=False) as endpoint:
        yield HttpEngine(endpoint, served_name=_MODEL)


@asynccontextmanager
async def remote(directory: Path) -> AsyncIterator[Engine]:
    async with served(directory, unix=False) as endpoint:
        yield RemoteEngine(endpoint, served_name=_MODEL)


@pytest.mark.parametrize("opened", [in_process, over_unix, over_tcp, remote], ids=lambda one: one.__name__)
@pytest.mark.parametrize("check", ENGINE_CHECKS, ids=lambda one: one.name)
async def test_conformance(check: EngineCheck, opened: Opened, tmp_path: Path) -> None:
    """The echo engine can do all that the suite asks for; of a remote one `reproducible` is not known."""
    async with opened(tmp_path) as engine:
        try:
            subject = Subject(engine, _MODEL, await engine.probe())
            assert check.applies(subject) or (opened, check.run) == (remote, check_reproducible)
            await check.run(subject)
        finally:
            await engine.aclose()
    assert len(asyncio.all_tasks()) == 1


async def test_the_whole_suite_runs_at_once() -> None:
    ran = await check_engine(EchoEngine(_SETTINGS), model=_MODEL)
    assert ran == [check.name for check in ENGINE_CHECKS]
    only_texts = await check_engine(EchoEngine(_SETTINGS), model=_MODEL, embeds=False, exact=False)
    assert "embeddings" not in only_texts
    assert "seed" not in only_texts

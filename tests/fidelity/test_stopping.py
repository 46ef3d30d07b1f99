"""A gateway that is stopped lets answers end, and tells those that it cuts."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx

from terascope.core.config import Config, ServerConfig
from terascope.testing.between import MODEL, Between, Got, client, remote
from terascope.testing.faults import FaultEngine, faulty
from terascope.testing.gateway import serving

BRIEF = ServerConfig(drain_s=1.0)


async def _stopped(
    data_dir: Path, ask: Callable[[Between], Awaitable[Got]], *, running: Callable[[FaultEngine], bool], release: bool
) -> tuple[Got, dict[str, Any]]:
    """Stop the gateway while `ask` is under way; return what the client got, and the record that a new life finds."""
    async with faulty() as served, AsyncExitStack() as stack:
        config = Config(server=BRIEF, deployments=[remote(MODEL, served.url, served_name="m")])
        async with serving(config, data_dir=data_dir) as gateway:
            http: httpx.AsyncClient = await stack.enter_async_context(client(gateway))
            asked = asyncio.ensure_future(ask(Between(gateway, [served.engine], http)))
            await served.engine.until(running)
            if release:
                asyncio.get_running_loop().call_later(0.3, served.engine.release)
        got = await asked
        async with serving(config, data_dir=data_dir) as gateway, client(gateway) as again:
            return got, await Between(gateway, [served.engine], again).record(got)


async def test_a_stream_that_is_cut_says_so(tmp_path: Path) -> None:
    """sml runs `scancel` on what still answers: a stop in mid-stream must not look like an end."""
    got, record = await _stopped(
        tmp_path, lambda one: one.ask("stall after=4"), running=lambda engine: engine.running == 1, release=False
    )
    assert got.text
    assert got.error["code"] == "server_stopping"
    assert not got.done
    assert (record["outcome"], record["status"], record["error"]) == ("failed", 503, "server_stopping")


async def test_a_whole_answer_that_is_cut_is_an_error(tmp_path: Path) -> None:
    """503 and `Retry-After`, at which official clients ask again."""
    got, record = await _stopped(
        tmp_path, lambda one: one.ask("silent", stream=False), running=lambda engine: engine.running == 1, release=False
    )
    assert (got.status, got.error["code"]) == (503, "server_stopping")
    assert int(got.headers["retry-after"]) > 0
    assert record["error"] == "server_stopping"


async def test_answers_may_end_while_the_gateway_stops(tmp_path: Path) -> None:
    """Within `server.drain_s` what runs is not touched."""
    got, record = await _stopped(
        tmp_path, lambda one: one.ask("hold after=4"), running=lambda engine: engine.running == 1, release=True
    )
    assert got.done
    assert record["outcome"] == "completed"

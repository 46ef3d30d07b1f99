"""A model that is busy is waited for in our queue, not in the engine's; the client is told how long."""

import asyncio
import re
from pathlib import Path

import pytest

from terascope.core.config import ServerConfig
from terascope.testing.between import between

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_who_waits_is_told_for_how_long(tmp_path: Path) -> None:
    """Heartbeats name the estimate, and the first tells it in a header; the engine sees one request at a time."""
    async with between(tmp_path, server=ServerConfig(heartbeat_s=0.05), max_in_flight=1) as one:
        await one.ask("slow", max_tokens=50)  # so that something is known of its pace
        async with one.opened("hold") as first:
            await one.engine.until(lambda engine: engine.running == 1)
            async with one.opened("none") as second:
                assert float(second.headers["x-terascope-estimated-wait"]) >= 1
                parts = second.aiter_raw()
                assert re.fullmatch(rb": waiting, about \d+ s\n\n", await anext(parts))
                assert one.engine.running == 1
                one.engine.release()
                rest = b"".join([part async for part in parts])
                assert rest.endswith(b"data: [DONE]\n\n")
            assert b"[DONE]" in await first.aread()
        record = await one.record(second.headers["x-request-id"])
        assert record["queued_s"] > 0.05


async def test_who_leaves_the_queue_never_reaches_the_engine(tmp_path: Path) -> None:
    """Nothing is computed for a client that is gone, and nothing is charged."""
    async with between(tmp_path, server=ServerConfig(heartbeat_s=0.05), max_in_flight=1) as one:
        async with one.opened("hold") as first:
            await one.engine.until(lambda engine: engine.running == 1)
            async with one.opened("none") as second:
                await anext(second.aiter_raw())
                left = second.headers["x-request-id"]
            asked = asyncio.create_task(one.ask())
            one.engine.release()
            await first.aread()
            assert (await asked).text == "hello there"
        assert len(one.engine.received) == 2
        assert (await one.record(left))["outcome"] == "cancelled"
        assert (await one.record(left))["attempts"] == 0


async def test_a_deadline_counts_the_wait(tmp_path: Path) -> None:
    """A client's own limit holds in the queue, too."""
    async with between(tmp_path, max_in_flight=1) as one, one.opened("hold") as first:
        await one.engine.until(lambda engine: engine.running == 1)
        late = await one.ask(stream=False, headers={"X-Terascope-Deadline": "0.05"})
        assert (late.status, late.error["code"]) == (504, "deadline_exceeded")
        one.engine.release()
        await first.aread()

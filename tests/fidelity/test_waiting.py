"""A model that is cold or busy is waited for; the client sees life, and may set a limit of its own."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import openai
import pytest

from terascope.core.config import ServerConfig
from terascope.testing.between import MODEL, Between, between
from terascope.testing.scripts import TEXT

pytestmark = pytest.mark.asyncio(loop_scope="module")

LOADING = "loading, 3 of 7 files"
BEAT = b": waiting\n\n"
Cold = Callable[..., AbstractAsyncContextManager[Between]]


@pytest.fixture
def cold(tmp_path: Path) -> Cold:
    """Makes a gateway whose engine is not ready until the test says so."""

    @asynccontextmanager
    async def make(wait_timeout_s: float = 60.0) -> AsyncIterator[Between]:
        server = ServerConfig(heartbeat_s=0.05, wait_timeout_s=wait_timeout_s)
        async with between(tmp_path, server=server, ill=LOADING) as one:
            yield one

    return make


async def test_a_stream_waits_for_a_cold_model(cold: Cold) -> None:
    """SAIA answers 503 `Model Not Loaded`; KServe #1805, Ray PR #63859, NDIF workbench #51: cold starts time out."""
    async with cold() as one, one.opened() as answer:
        parts = answer.aiter_raw()
        assert [await anext(parts), await anext(parts)] == [BEAT, BEAT]
        assert one.engine.received == []
        one.engine.ill = ""
        rest = b"".join([part async for part in parts]).replace(BEAT, b"")
        assert rest.endswith(b"data: [DONE]\n\n")
        record = await one.record(answer.headers["x-request-id"])
        assert (record["outcome"], record["attempts"]) == ("completed", 1)
        assert record["queued_s"] > 0.05


async def test_a_whole_answer_waits_for_a_cold_model(cold: Cold) -> None:
    """The same without a stream: the request is held, not refused."""
    async with cold() as one:
        asked = asyncio.create_task(one.ask(stream=False))
        async with one.opened() as answer:  # which has waited for two heartbeats
            parts = answer.aiter_raw()
            assert [await anext(parts), await anext(parts)] == [BEAT, BEAT]
            assert not asked.done()
            one.engine.ill = ""
        assert (await asked).text == "hello there"


async def test_the_official_client_takes_heartbeats(cold: Cold) -> None:
    """Comments are what SSE has for this: no client sees an event in them."""
    async with cold() as one:
        key, url = one.gateway.key, one.gateway.url + "/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0) as http:
            stream = await http.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": TEXT}], stream=True
            )
            one.engine.ill = ""
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == TEXT


async def test_heartbeats_come_between_events(impatient: Between) -> None:
    """Never inside of one: without them the stream is what the engine sent."""
    got = await impatient.ask("slow count=4 gap=0.15", stream_options={"include_usage": True})
    assert got.body.count(BEAT) >= 3
    assert got.body.replace(BEAT, b"") == impatient.sent(got).replace(b'"model":"m"', b'"model":"m@1"')


async def test_nobody_waits_for_ever(cold: Cold) -> None:
    """`server.wait_timeout_s` is the operator's limit; the error says when to come back."""
    async with cold(wait_timeout_s=0.3) as one:
        whole, streamed = await asyncio.gather(one.ask(stream=False), one.ask())
    assert (whole.status, whole.error["code"]) == (503, "model_unavailable")
    assert int(whole.headers["retry-after"]) > 0
    assert streamed.error["code"] == "model_unavailable"
    assert BEAT in streamed.body


async def test_a_deadline_counts_while_waiting(cold: Cold) -> None:
    """The client's own limit holds from the beginning, whatever the request waits for."""
    async with cold() as one:
        deadline = {"X-Terascope-Deadline": "0.3"}
        whole, streamed = await asyncio.gather(
            one.ask(stream=False, headers=deadline), one.ask(stream=True, headers=deadline)
        )
        assert (whole.status, whole.error["code"]) == (504, "deadline_exceeded")
        assert streamed.error["code"] == "deadline_exceeded"
        for got in (whole, streamed):
            record = await one.record(got)
            assert (record["outcome"], record["error"], record["attempts"]) == ("failed", "deadline_exceeded", 0)
        assert one.engine.received == []


async def test_leaving_while_waiting_asks_no_engine(cold: Cold) -> None:
    """A client that gave up costs nothing when the model is there at last."""
    async with cold() as one:
        async with one.opened() as answer:
            await anext(answer.aiter_raw())
        one.engine.ill = ""
        assert (await one.ask()).done
        assert len(one.engine.received) == 1
        record = await one.record(answer.headers["x-request-id"])
        assert (record["outcome"], record["error"], record["attempts"]) == ("cancelled", "client_left", 0)


@pytest.mark.parametrize("fault", ["stall after=4", "slow gap=0.05 count=1000", "silent"])
async def test_a_deadline_ends_a_stream_in_an_error(through: Between, fault: str) -> None:
    """Also where events come steadily, and before the first one. The engine is freed."""
    got = await through.ask(fault, headers={"X-Terascope-Deadline": "0.3"})
    assert got.error["code"] == "deadline_exceeded"
    assert got.status == (504 if fault == "silent" else 200)
    await through.engine.until(lambda engine: engine.running == 0)
    record = await through.record(got)
    assert (record["outcome"], record["status"], record["error"]) == ("failed", 504, "deadline_exceeded")


async def test_a_deadline_ends_a_whole_answer_in_an_error(through: Between) -> None:
    """504, and nothing of the answer."""
    got = await through.ask("silent", stream=False, headers={"X-Terascope-Deadline": "0.3"})
    assert (got.status, got.error["code"]) == (504, "deadline_exceeded")
    await through.engine.until(lambda engine: engine.running == 0)


async def test_a_deadline_that_is_kept_changes_nothing(through: Between) -> None:
    """An answer in time is the same as without a deadline."""
    got = await through.ask(headers={"X-Terascope-Deadline": "60"})
    assert got.done
    assert (await through.record(got))["outcome"] == "completed"


@pytest.mark.parametrize("deadline", ["soon", "0", "-1", "nan", "inf", "1e12", "1,5"])
async def test_a_deadline_is_a_number_of_seconds(through: Between, deadline: str) -> None:
    """Anything else is refused, by the header's name."""
    got = await through.ask(headers={"X-Terascope-Deadline": deadline})
    assert (got.status, got.error["param"]) == (400, "X-Terascope-Deadline")

"""Engines fail; the answer is still whole, or says that it is not."""

import asyncio
import json
import resource
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from terascope.scheduler.breaker import MOST_LOST
from terascope.testing.between import Between, between, remote
from terascope.testing.faults import faulty, hanging, refusing
from terascope.testing.scripts import TEXT

pytestmark = pytest.mark.asyncio(loop_scope="module")

SAID = "hello there"
CUT = ("truncated", "die", "reset", "until_eof", "bad_chunk")
MANY = 1001


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("fault", ["no_answer", "half_head"])
async def test_a_request_without_an_answer_goes_to_another_replica(
    impatient: Between, fault: str, stream: bool
) -> None:
    """vLLM production stack #749, #612: requests hang or fail although other backends could answer them."""
    impatient.engines[0].fault = fault
    got = await impatient.ask(stream=stream)
    assert got.text == SAID
    assert got.id == impatient.engines[1].received[-1].headers["x-request-id"]
    record = await impatient.record(got)
    assert (record["outcome"], record["attempts"]) == ("completed", 2)


@pytest.mark.parametrize("fault", CUT)
async def test_a_truncated_answer_is_asked_for_again(impatient: Between, fault: str) -> None:
    """GPUStack passed truncated answers on with status 200 (its log of fixes, 26 July 2026)."""
    impatient.engines[0].fault = fault
    got = await impatient.ask(stream=False)
    assert (got.status, got.text) == (200, SAID)
    assert (await impatient.record(got))["attempts"] == 2


@pytest.mark.parametrize("fault", CUT)
async def test_a_truncated_answer_is_never_a_200(through: Between, fault: str) -> None:
    """The same where no replica does better: an error, and no part of what came."""
    got = await through.ask(fault, stream=False)
    assert (got.status, got.error["code"]) == (502, "engine_lost")
    assert TEXT[:10] not in got.body.decode()
    record = await through.record(got)
    assert (record["outcome"], record["error"], record["attempts"]) == ("failed", "engine_lost", 3)


@pytest.mark.parametrize("fault", ["die after=4", "reset after=4", "bad_chunk after=4"])
async def test_an_answer_that_had_begun_ends_in_an_error(impatient: Between, fault: str) -> None:
    """NVIDIA Dynamo migrates in silence: two halves of two answers are not one answer."""
    got = await impatient.ask(fault)
    assert got.error["code"] == "engine_lost"
    assert got.text
    assert TEXT.startswith(got.text)
    assert not got.done
    asked = [engine for engine in impatient.engines for one in engine.received if one.headers["x-request-id"] == got.id]
    assert asked == [impatient.engines[0]]
    record = await impatient.record(got)
    assert (record["outcome"], record["status"], record["attempts"]) == ("failed", 502, 1)


async def test_an_engine_that_loses_everything_is_left_alone(impatient: Between) -> None:
    """It answers its probes: after a few lost requests others go to the other engine, and few try it again."""
    impatient.engines[0].fault = "die"
    before = len(impatient.engines[0].received)
    answers = [await impatient.ask(stream=False) for _ in range(20)]
    assert all(one.text == SAID for one in answers)
    assert MOST_LOST <= len(impatient.engines[0].received) - before <= MOST_LOST + 2


async def test_heartbeats_do_not_count_as_an_answer(impatient: Between) -> None:
    """A stream that had nothing but comments is still tried elsewhere."""
    impatient.engines[0].fault = "silent"
    async with impatient.opened() as answer:
        parts = answer.aiter_raw()
        assert await anext(parts) == b": waiting\n\n"
        impatient.engines[0].fault = "no_answer"
        impatient.engines[0].release()
        rest = b"".join([part async for part in parts])
    assert rest.endswith(b"data: [DONE]\n\n")
    assert (await impatient.record(answer.headers["x-request-id"]))["attempts"] == 2


@pytest.mark.parametrize("stream", [True, False])
async def test_a_request_survives_the_death_of_its_engine(tmp_path: Path, stream: bool) -> None:
    """OpenTela retries only before the first byte, as here; sml kills what runs at each handover."""
    async with faulty() as other, AsyncExitStack() as life:
        dying = await life.enter_async_context(faulty())
        dying.engine.fault = "silent"
        pair = [remote("pair@1", one.url, name=f"pair{n}") for n, one in enumerate((dying, other))]
        async with between(tmp_path, more=pair) as one:
            asked = asyncio.create_task(one.ask(model="pair@1", stream=stream))
            await dying.engine.until(lambda engine: engine.running == 1)
            await life.aclose()
            assert (await asked).text == SAID
            assert len(other.engine.received) == 1
            assert (await one.ask(model="pair@1", stream=stream)).text == SAID, "and the dead one is not asked again"


async def test_one_that_hangs_does_not_delay_another(tmp_path: Path) -> None:
    """vLLM production stack #749: the router hangs when one backend fails."""
    async with hanging() as stuck, refusing() as dead:
        more = [remote("stuck@1", stuck.url), remote("dead@1", dead.url)]
        async with between(tmp_path, more=more, wait=False) as one:
            waiting = [asyncio.create_task(one.ask(model=model)) for model in ("stuck@1", "dead@1") * 5]
            for _ in range(10):
                async with asyncio.timeout(5):
                    assert (await one.ask()).text == SAID
            assert not any(task.done() for task in waiting), "they wait for their own models"
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)


async def test_silent_requests_do_not_delay_others(through: Between) -> None:
    """The same on one engine: what it does not answer holds up nothing else."""
    silent = [asyncio.create_task(through.ask("silent", stream=False)) for _ in range(20)]
    await through.engine.until(lambda engine: engine.running == 20)
    async with asyncio.timeout(5):
        assert (await through.ask()).text == SAID
    for task in silent:
        task.cancel()
    await asyncio.gather(*silent, return_exceptions=True)
    await through.engine.until(lambda engine: engine.running == 0)


@pytest.fixture
def _many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def _bare_stream(through: Between) -> bytes:
    """A stream over a bare socket: a thousand of the usual client would take longer than the gateway."""
    host, port = through.gateway.url.removeprefix("http://").split(":")
    body = json.dumps({"model": "m", "stream": True, "fault": "hold after=2", "messages": []})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"{head}Authorization: Bearer {through.gateway.key}\r\n\r\n{body}".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.usefixtures("_many_files")
async def test_a_thousand_streams_at_once(through: Between) -> None:
    """vLLM production stack #448: crashed above 1,000 requests at once."""
    asked = [asyncio.create_task(_bare_stream(through)) for _ in range(MANY)]
    await through.engine.until(lambda engine: engine.running == MANY)
    through.engine.release()
    answers = await asyncio.gather(*asked)
    assert sum(answer.count(b"data: [DONE]\n\n") for answer in answers) == MANY

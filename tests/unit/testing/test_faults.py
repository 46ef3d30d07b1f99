"""Every fault does what its name says, seen through the client that the gateway uses."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from terascope.core.errors import EngineError, EngineLost, EngineUnreachable
from terascope.engines.contract import EngineCall, Headers
from terascope.engines.upstream import HttpEngine
from terascope.testing.engine_subject import Said, Streamed, user
from terascope.testing.fault_scripts import FAULTS, MANY_SCRIPTS, named_fault
from terascope.testing.faults import Served, faulty, hanging, refusing
from terascope.testing.scripts import TEXT

_RIGHT = (
    "none", "leading_space", "logprobs", "reflect", "extra_fields", "usage_details", "usage_everywhere", "usage_null",
    "usage_lies",
    "no_usage", "crlf", "cr", "bytewise", "split_characters", "packed", "comments", "other_fields", "interim",
    "until_close", "other_model", "pause", "late", "slow", "huge", "words", "no_done",
)  # fmt: skip
_LOST = ("die", "reset", "truncated", "until_eof", "bad_chunk")
_ERRORS = {
    "html": 502, "detail": 422, "detail_text": 400, "plain_error": 500, "long_error": 500, "old_error": 400,
    "empty_error": 503, "wrapped_error": 400, "limited": 429, "overloaded": 503, "failed": 500,
    "failed status=418": 418, "key_refused": 401, "key_refused status=403": 403, "not_served": 404,
    "error_as_200": 200, "redirect": 307,
}  # fmt: skip
_QUICK = "seconds=0.01 gap=0 count=20 size=100000"


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with faulty() as one:
        yield one


@pytest.fixture
async def engine(served: Served) -> AsyncIterator[HttpEngine]:
    one = HttpEngine(served.endpoint)
    yield one
    await one.aclose()


async def ask(engine: HttpEngine, fault: str, *, stream: bool, endpoint: str = "chat/completions", **more: Any) -> Said:
    prompt: dict[str, Any] = {"prompt": TEXT} if endpoint == "completions" else {"messages": user(TEXT)}
    body = {"model": "m", "stream": stream, "fault": fault, **prompt, **more}
    answer = await engine.generate(EngineCall("req_1", endpoint, orjson.dumps(body)))
    data = b"".join([chunk async for chunk in answer.chunks()])
    return Said(answer.status, answer.headers, data)


@pytest.mark.parametrize("endpoint", ["chat/completions", "completions"])
@pytest.mark.parametrize("name", _RIGHT)
async def test_right_answers(engine: HttpEngine, name: str, endpoint: str) -> None:
    whole = (await ask(engine, f"{name} {_QUICK}", stream=False, endpoint=endpoint)).good
    said = await ask(engine, f"{name} {_QUICK}", stream=True, endpoint=endpoint)
    streamed = Streamed.read(said.body)
    choice = whole["choices"][0]
    assert streamed.done is (name != "no_done")
    assert streamed.finish_reasons == {0: ["stop"]}
    if name != "reflect":
        assert streamed.text == (choice["text"] if endpoint == "completions" else choice["message"]["content"])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", _LOST)
async def test_answers_that_are_cut_short(engine: HttpEngine, name: str, stream: bool) -> None:
    with pytest.raises(EngineLost):
        await ask(engine, name, stream=stream)


@pytest.mark.parametrize(
    ("name", "error"),
    [("no_answer", EngineUnreachable), ("half_head", EngineUnreachable), ("not_http", EngineError)],
)
async def test_answers_that_do_not_begin(engine: HttpEngine, name: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        await ask(engine, name, stream=True)


@pytest.mark.parametrize(
    ("name", "status"),
    _ERRORS.items(),
)
async def test_errors(engine: HttpEngine, name: str, status: int) -> None:
    said = await ask(engine, name, stream=True)
    assert said.status == status
    assert said.headers.get("retry-after") == {"limited": "7", "overloaded": "11"}.get(name)


async def test_no_answer_can_be_limited_to_the_first_times(engine: HttpEngine, served: Served) -> None:
    for _ in range(2):
        with pytest.raises(EngineUnreachable):
            await ask(engine, "no_answer times=2", stream=False)
    assert (await ask(engine, "no_answer times=2", stream=False)).good["choices"]
    assert len(served.engine.received) == 3


async def test_streams_that_end_too_early_end_properly(engine: HttpEngine) -> None:
    unfinished = Streamed.read((await ask(engine, "unfinished after=4", stream=True)).body)
    assert (len(unfinished.events), unfinished.done, unfinished.finish_reasons) == (4, False, {})
    cut = (await ask(engine, "cut_event", stream=True)).body
    assert not cut.endswith(b"\n\n")
    assert (await ask(engine, "bare_done", stream=True)).body.endswith(b"\n\ndata: [DONE]")
    one = Streamed.read((await ask(engine, "one_unfinished", stream=True, n=2)).body)
    assert (one.done, one.finish_reasons) == (False, {0: ["stop"]})


async def test_wrong_bodies(engine: HttpEngine) -> None:
    with pytest.raises(orjson.JSONDecodeError):
        _ = (await ask(engine, "not_json", stream=False)).good
    assert (await ask(engine, "json_for_stream", stream=True)).good["choices"]
    with pytest.raises(UnicodeDecodeError):
        (await ask(engine, "bad_characters", stream=True)).body.decode()
    for name, begin in (("error_event", b'data: {"error":{'), ("old_error_event", b'data: {"object":"error",')):
        events = (await ask(engine, name, stream=True)).body
        assert begin in events
        assert events.endswith(b"data: [DONE]\n\n")
        assert (await ask(engine, name, stream=False)).status == 500


async def test_usage_faults(engine: HttpEngine) -> None:
    wanted = {"include_usage": True}
    for name, usages in (("no_usage", 0), ("usage_null", 1), ("usage_everywhere", 15), ("none", 1)):
        streamed = Streamed.read((await ask(engine, name, stream=True, stream_options=wanted)).body)
        assert len([one for one in streamed.events if one.get("usage")]) == usages, name
    assert "usage" not in (await ask(engine, "no_usage", stream=False)).good
    details = (await ask(engine, "usage_details", stream=False)).good["usage"]["prompt_tokens_details"]
    assert details == {"cached_tokens": 5}


async def test_reflect_shows_what_arrived(engine: HttpEngine, served: Served) -> None:
    said = (await ask(engine, "reflect", stream=False, max_tokens=1, unheard_of=[1], stop="a")).good
    arrived = orjson.loads(said["choices"][0]["message"]["content"])
    assert arrived["body"]["unheard_of"] == [1]
    assert arrived["headers"]["x-request-id"] == "req_1"
    assert served.engine.received[0].fields == arrived["body"]


async def test_bytes_of_other_scripts_survive(engine: HttpEngine) -> None:
    for name in ("bytewise", "split_characters"):
        assert Streamed.read((await ask(engine, name, stream=True)).body).text == MANY_SCRIPTS


async def test_hold_waits_for_release(engine: HttpEngine, served: Served) -> None:
    call = EngineCall("req_1", "chat/completions", b'{"model":"m","stream":true,"fault":"hold","messages":[]}')
    answer = await engine.generate(call)
    chunks = answer.chunks()
    assert await anext(chunks)
    assert served.engine.running == 1
    rest = asyncio.create_task(_rest(chunks))
    served.engine.release()
    assert (await rest).endswith(b"data: [DONE]\n\n")
    await served.engine.until(lambda one: one.running == 0)
    assert served.engine.left == 0


async def test_what_was_sent_is_remembered(engine: HttpEngine, served: Served) -> None:
    for name in ("none", "bytewise", "crlf", "detail"):
        body = (await ask(engine, name, stream=True)).body
        assert b"".join(served.engine.received[-1].sent) == body


async def test_an_engine_can_fail_whatever_it_is_asked(engine: HttpEngine, served: Served) -> None:
    served.engine.fault = "failed status=418"
    assert (await ask(engine, "none", stream=False)).status == 418
    assert (await ask(engine, "limited", stream=False)).status == 429


@pytest.mark.parametrize("fault", ["stall", "silent", "slow gap=0.01 count=100000", "words count=100000"])
async def test_clients_that_leave_are_counted(engine: HttpEngine, served: Served, fault: str) -> None:
    task = asyncio.create_task(ask(engine, fault, stream=True))
    await served.engine.until(lambda one: one.running == 1)
    task.cancel()
    async with asyncio.timeout(20):
        await served.engine.until(lambda one: one.running == 0)
    assert served.engine.left == 1


async def _rest(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


def test_a_fault_can_be_named_in_the_text_or_the_model() -> None:
    said = "please fault:pause after=2 seconds=1.5 and go on"
    expected = ("pause", {"after": "2", "seconds": "1.5"})
    assert named_fault({"messages": [{"role": "user", "content": said}]}) == expected
    assert named_fault({"messages": [{"role": "user", "content": [{"type": "text", "text": said}]}]}) == expected
    assert named_fault({"prompt": "fault:die"}) == ("die", {})
    assert named_fault({"model": "fault:html", "input": "x"}) == ("html", {})
    assert named_fault({"fault": "none", "prompt": "fault:die"}) == ("none", {})
    assert named_fault({"prompt": "no default: at all"}) == ("none", {})


async def test_bad_requests_are_refused_and_not_faults(engine: HttpEngine) -> None:
    assert "pause" in (await ask(engine, "no_such_fault", stream=False)).error["message"]
    assert (await ask(engine, "pause seconds=soon", stream=False)).status == 400
    assert (await ask(engine, "none", stream=False, n=0)).status == 400
    answer = await engine.generate(EngineCall("req_1", "chat/completions", b"[]"))
    assert answer.status == 400
    await answer.aclose()


async def test_it_says_what_it_is(served: Served, engine: HttpEngine) -> None:
    assert (await engine.probe()).engine == "faults"
    served.engine.ill = "loading, 3 of 7 files"
    with pytest.raises(EngineUnreachable, match="3 of 7"):
        await engine.probe()
    status, body = await engine.ask("/faults")
    assert (status, set(orjson.loads(body))) == (200, set(FAULTS))
    assert all(orjson.loads(body).values())


async def test_it_demands_its_secret(tmp_path: Path) -> None:
    async with faulty(path=tmp_path / "engine.sock", secret="s") as served:
        for secret, status in (("s", 200), ("t", 401), ("", 401)):
            engine = HttpEngine(type(served.endpoint)(served.url, secret))
            assert (await ask(engine, "none", stream=False)).status == status
            await engine.aclose()


async def test_endpoints_where_nothing_answers() -> None:
    async with refusing() as endpoint:
        engine = HttpEngine(endpoint)
        with pytest.raises(EngineUnreachable, match="refused"):
            await engine.probe()
    async with hanging() as endpoint:
        engine = HttpEngine(endpoint, probe_timeout_s=0.05)
        with pytest.raises(EngineUnreachable, match="did not answer"):
            await engine.probe()
        await engine.aclose()


def test_it_runs_as_a_program() -> None:
    program = [sys.executable, "-m", "terascope.testing.faults"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("listening on ").strip()
        body = {"model": "m", "messages": user("fault:limited")}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
        assert httpx.get(f"{url}/faults/state").json() == {"received": 1, "running": 0, "left": 0}
        assert httpx.post(f"{url}/faults/release").status_code == 200
        process.kill()


def test_every_fault_is_tried_here() -> None:
    tried = {*_RIGHT, *_LOST, *_ERRORS, "no_answer", "half_head", "not_http", "bare_done", "unfinished", "cut_event"}
    tried |= {"not_json", "json_for_stream", "bad_characters", "error_event", "old_error_event", "one_unfinished"}
    assert set(FAULTS) - tried == {"hold", "stall", "silent"}
    assert Headers({"a": "b"}) == {"a": "b"}

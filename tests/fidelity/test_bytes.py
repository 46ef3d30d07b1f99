"""What the engine sent is what the client gets, byte for byte."""

import asyncio

import pytest

from terascope.testing.between import MODEL, SAME, Between
from terascope.testing.fault_scripts import MANY_SCRIPTS
from terascope.testing.scripts import TEXT

pytestmark = pytest.mark.asyncio(loop_scope="module")

ENDPOINTS = ("chat/completions", "completions")
USAGE = {"include_usage": True}
WRITTEN = (
    "none", "leading_space", "logprobs", "extra_fields", "usage_details", "usage_everywhere", "usage_null",
    "usage_lies", "no_usage",
    "crlf", "cr", "bytewise", "split_characters", "packed", "comments", "other_fields", "interim", "until_close",
    "bare_done", "no_done", "bad_characters", "huge", "words count=5000",
)  # fmt: skip
"""Right answers, each written in another way."""


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("fault", WRITTEN)
async def test_a_stream_arrives_byte_for_byte(through: Between, fault: str, endpoint: str) -> None:
    """SwissAI serving-api #72, #74, #75, #77: deltas, `[DONE]` and usage came out other than they went in."""
    got = await through.ask(fault, endpoint=endpoint, model=SAME, stream_options=USAGE)
    assert got.status == 200
    assert got.body == through.sent(got)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("fault", [fault for fault in WRITTEN if fault != "bad_characters"])
async def test_a_whole_answer_arrives_byte_for_byte(through: Between, fault: str, endpoint: str) -> None:
    """SwissAI serving-api #74, #77, #98: usage and its details were lost from answers."""
    got = await through.ask(fault, stream=False, endpoint=endpoint, model=SAME)
    assert got.status == 200
    assert got.body == through.sent(got)
    assert int(got.headers["content-length"]) == len(got.body)


async def test_vectors_arrive_byte_for_byte(through: Between) -> None:
    """FIRST PR #240 had to mend how fields are written anew; here nothing is."""
    for fields in ({"input": ["a", "b"]}, {"encoding_format": "base64"}, {"dimensions": 3}):
        got = await through.ask(endpoint="embeddings", stream=False, model=SAME, **fields)
        assert got.status == 200
        assert got.body == through.sent(got)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("fault", ["none", "crlf", "bytewise", "huge", "extra_fields", "usage_everywhere"])
async def test_only_the_models_name_is_another(through: Between, fault: str, stream: bool) -> None:
    """The third stated exception: `model` says `name@version`, in every event, and all other bytes stay."""
    more = {"stream_options": USAGE} if stream else {}
    got = await through.ask(fault, stream=stream, **more)
    assert got.body == through.sent(got).replace(b'"model":"m"', b'"model":"m@1"')
    assert {one["model"] for one in (got.events if stream else [got.object])} == {MODEL}
    assert got.headers["x-terascope-model"] == MODEL


@pytest.mark.parametrize("stream", [True, False])
async def test_another_model_is_not_hidden(through: Between, stream: bool) -> None:
    """LiteLLM as ScaDS Dresden runs it: an alias falls back to another model; its name is all that tells."""
    got = await through.ask("other_model", stream=stream)
    assert {one["model"] for one in (got.events if stream else [got.object])} == {"fallback-model"}
    assert got.headers["x-terascope-model"] == MODEL


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_leading_white_space_stays(through: Between, endpoint: str) -> None:
    """SwissAI serving-api #72, #75, fixed in #80: the white space that the first delta began with was stripped."""
    for stream in (True, False):
        got = await through.ask("leading_space", stream=stream, endpoint=endpoint)
        assert got.text == "\n\n  def f():\n    pass\n"


async def test_characters_are_not_broken(through: Between) -> None:
    """Characters that the network split arrive whole, wherever it split them."""
    for fault in ("bytewise", "split_characters"):
        got = await through.ask(fault)
        assert got.text == MANY_SCRIPTS
        assert "\ufffd" not in got.body.decode()


async def test_a_megabyte_in_one_event_arrives(through: Between) -> None:
    """An event may be as long as it likes, and come in any pieces."""
    got = await through.ask("huge size=3000000")
    assert got.text == "x" * 3_000_000
    assert got.done


async def test_events_arrive_when_they_are_made(through: Between) -> None:
    """KServe #3809: with logging on, streams came as a whole; FIRST polls for data every 25 ms."""
    async with through.opened("hold after=3") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-accel-buffering"] == "no"
        arrived = b""
        parts = answer.aiter_raw()
        while arrived.count(b"\n\n") < 3:
            arrived += await anext(parts)
        assert arrived.count(b"data:") == 3
        assert through.engine.running == 1
        through.engine.release()
        arrived += b"".join([part async for part in parts])
    assert arrived.endswith(b"data: [DONE]\n\n")


async def test_streams_beside_each_other_do_not_mix(through: Between) -> None:
    """Every client gets its own answer, however many are written at once."""
    texts = [f"{TEXT} {number}" for number in range(50)]
    asked = [through.ask(messages=[{"role": "user", "content": text}]) for text in texts]
    assert [got.text for got in await asyncio.gather(*asked)] == texts

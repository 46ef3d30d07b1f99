"""An answer ends when the engine says so, or in an explicit error; never by a clock."""

import asyncio

import openai
import pytest

from terascope.testing.between import MODEL, Between
from terascope.testing.scripts import TEXT

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_pause_is_not_the_end(impatient: Between) -> None:
    """FIRST calls 5 s of silence an end and says `[DONE]` (endpoints/globus_compute.py:339, 438-448)."""
    got = await impatient.ask("pause after=5 seconds=0.3")
    assert got.text == TEXT
    assert got.payloads.count(b"[DONE]") == 1
    assert got.body.endswith(b"data: [DONE]\n\n")
    assert (await impatient.record(got))["outcome"] == "completed"


async def test_a_long_answer_is_not_cut(impatient: Between) -> None:
    """FIRST 300 s, SwissAI serving-api #132 300 s, AIBrix 120 s, vLLM production stack 300 and 600 s in all.

    The answer lasts four times the idle limit, which is the only limit there is.
    """
    began = asyncio.get_running_loop().time()
    got = await impatient.ask("slow count=80 gap=0.025")
    assert asyncio.get_running_loop().time() - began > 4 * 0.5
    assert got.text.split() == [f"w{number}" for number in range(80)]
    assert got.done


async def test_a_whole_answer_may_take_long(impatient: Between) -> None:
    """The same where the answer is not streamed: its engine is rightly silent until it has all of it."""
    got = await impatient.ask("late seconds=1.0", stream=False)
    assert got.text == TEXT


async def test_the_first_event_may_take_long(through: Between) -> None:
    """FIRST gives the first data 30 s, less than any cold start takes."""
    got = await through.ask("late seconds=1.0")
    assert got.text == TEXT
    assert got.done


async def test_silence_ends_in_an_error_and_never_in_done(impatient: Between) -> None:
    """FIRST again: an engine that says nothing more gets `[DONE]`; after 300 s neither that nor an error."""
    got = await impatient.ask("stall after=4")
    assert got.status == 200
    assert got.error["code"] == "idle_timeout"
    assert got.text
    assert not got.done
    await impatient.engine.until(lambda one: one.running == 0)
    record = await impatient.record(got)
    assert (record["outcome"], record["error"], record["status"]) == ("failed", "idle_timeout", 504)


async def test_silence_from_the_beginning_ends_in_an_error(impatient: Between) -> None:
    """vLLM production stack #749: the router hangs when a backend does. Here the wait is shown, and has an end."""
    got = await impatient.ask("silent")
    assert got.error["code"] == "idle_timeout"
    assert b": waiting\n\n" in got.body


@pytest.mark.parametrize("fault", ["unfinished after=4", "cut_event", "one_unfinished"])
async def test_a_stream_that_just_stops_ends_in_an_error(through: Between, fault: str) -> None:
    """vLLM production stack #706: streams stopped in silence; GPUStack gave truncated ones out as whole."""
    got = await through.ask(fault, n=2)
    assert got.error["code"] == "engine_lost"
    assert not got.done
    record = await through.record(got)
    assert (record["outcome"], record["error"]) == ("failed", "engine_lost")


async def test_done_is_not_invented(through: Between) -> None:
    """FIRST writes `[DONE]` itself. An engine that ends properly without one is passed on as it is."""
    got = await through.ask("no_done")
    assert got.text == TEXT
    assert not got.done
    assert (await through.record(got))["outcome"] == "completed"


@pytest.mark.parametrize("fault", ["none", "packed", "crlf", "cr", "bytewise", "comments", "other_fields", "bare_done"])
async def test_done_is_not_swallowed(through: Between, fault: str) -> None:
    """SwissAI serving-api #72, #75, fixed in #80: `[DONE]` was swallowed."""
    got = await through.ask(fault)
    assert got.body.count(b"[DONE]") == 1
    assert got.body.rstrip().endswith(b"[DONE]")


@pytest.mark.parametrize("fault", ["error_event after=4", "old_error_event after=4"])
async def test_an_engines_error_event_is_the_end(through: Between, fault: str) -> None:
    """vLLM says `[DONE]` after an error event, so a gateway that only counts `[DONE]` calls it a whole answer."""
    got = await through.ask(fault)
    assert got.status == 200
    assert got.error["message"] == "the request was aborted"
    assert not got.done
    record = await through.record(got)
    assert (record["outcome"], record["status"]) == ("failed", 502)


async def test_the_official_client_raises_at_an_error_event(impatient: Between) -> None:
    """An answer that was cut must not look whole in a notebook."""
    http = openai.AsyncOpenAI(base_url=impatient.gateway.url + "/v1", api_key=impatient.gateway.key, max_retries=0)
    async with http:
        for fault in ("stall after=4", "die after=4", "unfinished after=4", "error_event after=4"):
            stream = await http.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "hi"}], stream=True, extra_body={"fault": fault}
            )
            with pytest.raises(openai.APIError):
                async for _ in stream:
                    pass

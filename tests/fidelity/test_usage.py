"""Usage, log-probabilities and finish reasons are what the engine said."""

import pytest

from terascope.testing.between import OURS, Between, Got
from terascope.testing.scripts import TEXT

pytestmark = pytest.mark.asyncio(loop_scope="module")

ENDPOINTS = ("chat/completions", "completions")
USAGE = {"include_usage": True}
COUNTED = ("prompt_tokens", "completion_tokens", "total_tokens")


def usages(got: Got) -> list[dict[str, object]]:
    return [one["usage"] for one in got.events if one.get("usage")]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_a_whole_answer_has_its_usage(through: Between, endpoint: str) -> None:
    """SwissAI serving-api #98: answers that were not streamed had no usage."""
    usage = (await through.ask(stream=False, endpoint=endpoint)).object["usage"]
    assert all(usage[name] > 0 for name in COUNTED)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_a_stream_has_its_usage_when_asked(through: Between, endpoint: str) -> None:
    """SwissAI serving-api #74, #77: usage was lost on the way."""
    got = await through.ask(endpoint=endpoint, stream_options=USAGE)
    assert len(usages(got)) == 1
    assert got.events[-1]["choices"] == []
    assert got.done


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_a_stream_has_no_usage_when_not_asked(through: Between, endpoint: str) -> None:
    """The first stated exception: the event that only the gateway asked for is taken out, and nothing else."""
    for fault in ("none", "usage_null", "packed", "crlf", "comments"):
        got = await through.ask(fault, endpoint=endpoint)
        assert usages(got) == []
        assert all(one["choices"] for one in got.events)
        assert got.done
        record = await through.record(got)
        assert record["prompt_tokens"] > 0, "the record has it all the same"


async def test_the_details_of_usage_stay(through: Between) -> None:
    """SwissAI serving-api #74, #77, fixed in #81: the details of usage were lost."""
    details = {"prompt_tokens_details": {"cached_tokens": 5}, "completion_tokens_details": {"reasoning_tokens": 2}}
    whole = (await through.ask("usage_details", stream=False)).object["usage"]
    [streamed] = usages(await through.ask("usage_details", stream_options=USAGE))
    for usage in (whole, streamed):
        assert {name: usage[name] for name in details} == details


async def test_usage_in_every_event_stays(through: Between) -> None:
    """vLLM's `continuous_usage_stats`: usage beside choices was asked for by the client, so it is not taken out."""
    options = USAGE | {"continuous_usage_stats": True}
    got = await through.ask("usage_everywhere", stream_options=options)
    assert len(usages(got)) == len(got.events) > 10
    record = await through.record(got)
    assert record["completion_tokens"] == usages(got)[-1]["completion_tokens"]


@pytest.mark.parametrize("stream", [True, False])
async def test_usage_that_cannot_be_is_passed_on_and_not_charged(through: Between, stream: bool) -> None:
    """What the engine said reaches the client; nobody pays for more tokens than a whole context has."""
    more = {"stream_options": USAGE} if stream else {}
    got = await through.ask("usage_lies", model=OURS, stream=stream, **more)
    [said] = usages(got) if stream else [got.object["usage"]]
    assert said["completion_tokens"] == 1 << 30
    record = await through.record(got)
    assert record["completion_tokens"] < 1000
    assert record["parameters"]["usage"] == "estimated"


async def test_usage_beside_choices_is_never_taken_out(through: Between) -> None:
    """Only the event that is there for usage alone goes: with any other a piece of the answer would go too."""
    got = await through.ask("usage_everywhere")
    assert got.text == TEXT
    assert len(usages(got)) == len(got.events)


async def test_the_usage_of_embeddings_stays(through: Between) -> None:
    """Embeddings count their prompt."""
    got = await through.ask(stream=False, endpoint="embeddings")
    assert got.object["usage"]["prompt_tokens"] == (await through.record(got))["prompt_tokens"] > 0


async def test_what_the_engine_adds_stays(through: Between) -> None:
    """SwissAI serving-api #81 stops fields that OpenAI's schema lacks: here `reasoning_content` and all go through."""
    got = await through.ask("extra_fields")
    deltas = [choice["delta"] for one in got.events for choice in one["choices"]]
    assert {delta["reasoning_content"] for delta in deltas} == {"because"}
    assert all(one["x_engine"] == {"step": 1} for one in got.events)
    whole = (await through.ask("extra_fields", stream=False)).object
    assert whole["choices"][0]["message"]["reasoning_content"] == "because"
    assert whole["choices"][0]["stop_reason"] is None


@pytest.mark.parametrize("stream", [True, False])
async def test_logprobs_of_completions_arrive(through: Between, stream: bool) -> None:
    """SwissAI serving-api #71: log-probabilities of completions were dropped, which broke lm-eval-harness."""
    got = await through.ask("logprobs", stream=stream, endpoint="completions", logprobs=2)
    for one in got.events if stream else [got.object]:
        for choice in one["choices"]:
            told = choice["logprobs"]
            assert choice["finish_reason"] or len(told["tokens"]) == len(told["token_logprobs"]) > 0
            assert choice["finish_reason"] or all(len(rivals) == 2 for rivals in told["top_logprobs"])


@pytest.mark.parametrize("stream", [True, False])
async def test_logprobs_of_chat_arrive(through: Between, stream: bool) -> None:
    """NVIDIA Dynamo #8548: log-probabilities of chat were not handed on from SGLang."""
    got = await through.ask("logprobs", stream=stream, logprobs=True, top_logprobs=2)
    parts = got.events if stream else [got.object]
    told = [
        entry for one in parts for choice in one["choices"] for entry in (choice["logprobs"] or {}).get("content", [])
    ]
    assert "".join(entry["token"] for entry in told) == got.text
    assert all(len(entry["top_logprobs"]) == 2 and entry["logprob"] < 0 for entry in told)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_every_choice_has_one_finish_reason(through: Between, endpoint: str) -> None:
    """FIRST makes an end of its own; here each choice ends once, with the engine's own reason."""
    for fields, reason in (({}, "stop"), ({"max_tokens": 1}, "length")):
        got = await through.ask(endpoint=endpoint, n=3, **fields)
        ended = [(choice["index"], choice["finish_reason"]) for one in got.events for choice in one["choices"]]
        assert sorted(one for one in ended if one[1]) == [(0, reason), (1, reason), (2, reason)]

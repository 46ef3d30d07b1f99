"""The conformance suite of engines: what every implementation of `engines.contract.Engine` must do."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

import orjson

from terascope.core.errors import EngineUnreachable
from terascope.core.models import Feature
from terascope.engines.contract import Engine, EngineCall, EngineInfo
from terascope.protocol.openai import ChatCompletion, ChatCompletionChunk, Completion, TokenizeResponse
from terascope.testing.engine_embeddings import check_dimensions, check_embeddings
from terascope.testing.engine_refusals import (
    check_bad_chats,
    check_bad_inputs,
    check_bad_prompts,
    check_unknown_model,
)
from terascope.testing.engine_repeats import check_reproducible
from terascope.testing.engine_subject import Subject, content, user

_WORDS = "one two three four five six seven eight nine ten"
_MANY_SCRIPTS = "na\u00efve caf\u00e9 \u65e5\u672c\u8a9e \U0001f389 e\u0301"
_GREEDY = {"temperature": 0, "seed": 7}
_SAMPLED = {"temperature": 1, "seed": 7}
_CHAT, _COMPLETIONS, _EMBEDDINGS = "chat/completions", "completions", "embeddings"
_OF_TEXTS = (_CHAT, _COMPLETIONS, "tokenize")  # tokens of an embedding model need not lead back to the text
_PROMPT_S = 30.0  # seconds in which closing something must be over, on the slowest machine


@dataclass(frozen=True, slots=True)
class EngineCheck:
    """One check: what it needs of an engine, and what it asks of it."""

    run: Callable[[Subject], Awaitable[None]]
    endpoint: str = ""
    features: frozenset[str] = frozenset()
    exact: bool = False

    @property
    def name(self) -> str:
        """What it is called in reports."""
        return self.run.__name__.removeprefix("check_")

    def applies(self, subject: Subject, *, generates: bool = True, embeds: bool = True) -> bool:
        """Whether `subject` says that it can do what is checked, and its model can."""
        if (self.endpoint == _EMBEDDINGS and not embeds) or (self.endpoint in _OF_TEXTS and not generates):
            return False
        if self.exact and not subject.exact:
            return False
        able = subject.info.capabilities
        return (not self.endpoint or self.endpoint in able.endpoints) and self.features <= able.features


async def check_engine(
    engine: Engine, *, model: str, generates: bool = True, embeds: bool = True, exact: bool = True
) -> list[str]:
    """Run the whole suite; return the names of the checks that applied. The engine is closed afterwards.

    Raises `AssertionError` at the first failure. `generates` and `embeds` say what the model is for; `exact` that
    the same request gets the same text. For a report per check, run `ENGINE_CHECKS` one by one.
    """
    subject = Subject(engine, model, await engine.probe(), exact)
    checks = [check for check in ENGINE_CHECKS if check.applies(subject, generates=generates, embeds=embeds)]
    for check in checks:
        await check.run(subject)
    return [check.name for check in checks]


async def check_says_what_it_is(subject: Subject) -> None:
    """The probe names an engine and endpoints, and says the same when it is asked again."""
    info = subject.info
    assert info.engine
    assert info.capabilities.endpoints
    assert info.context_length >= 0
    again: EngineInfo = await subject.engine.probe()
    assert again.capabilities == info.capabilities
    assert isinstance(await subject.engine.metrics(), str)


async def check_chat(subject: Subject) -> None:
    """A whole chat answer has OpenAI's shape, one choice, a reason to end and a usage that adds up."""
    answer = ChatCompletion.model_validate(await subject.chat(_WORDS, max_tokens=16, **_GREEDY))
    assert answer.model == subject.model
    assert [choice.index for choice in answer.choices] == [0]
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.prompt_tokens > 0
    assert 0 < answer.usage.completion_tokens <= 16
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


async def check_chat_stream(subject: Subject) -> None:
    """A stream is chunks of one id: a role first, one finish reason for each choice, no usage unless asked."""
    streamed = await subject.chat_stream(_WORDS, max_tokens=16, n=2, **_SAMPLED)
    chunks = [ChatCompletionChunk.model_validate(one) for one in streamed.events]
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert sorted(streamed.texts) == [0, 1]
    assert [len(streamed.finish_reasons[index]) for index in (0, 1)] == [1, 1]
    assert streamed.usage is None


async def check_stream_usage(subject: Subject) -> None:
    """With `include_usage` the last event has the usage and no choices; it is the whole answer's."""
    streamed = await subject.chat_stream(_WORDS, max_tokens=16, stream_options={"include_usage": True}, **_GREEDY)
    assert streamed.events[-1]["choices"] == []
    assert [one for one in streamed.events[:-1] if one.get("usage")] == []
    whole = await subject.chat(_WORDS, max_tokens=16, **_GREEDY)
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert streamed.usage is not None
        assert streamed.usage[name] == whole["usage"][name] or not subject.exact


async def check_stream_and_whole_agree(subject: Subject) -> None:
    """A stream says what the whole answer says, in any script and with no character broken."""
    for text in (_WORDS, _MANY_SCRIPTS, " leading space"):
        whole = await subject.chat(text, max_tokens=24, **_GREEDY)
        streamed = await subject.chat_stream(text, max_tokens=24, **_GREEDY)
        assert streamed.text == content(whole)
        assert streamed.finish_reasons == {0: [whole["choices"][0]["finish_reason"]]}


async def check_several_choices(subject: Subject) -> None:
    """`n` answers come, numbered from 0, and all are paid for."""
    await _check_choices(subject, _SAMPLED)


async def check_several_greedy_choices(subject: Subject) -> None:
    """The same at temperature 0, where all of them are alike."""
    await _check_choices(subject, _GREEDY)


async def _check_choices(subject: Subject, sampling: Mapping[str, object]) -> None:
    one = await subject.chat(_WORDS, max_tokens=8, ignore_eos=True, **sampling)
    answer = await subject.chat(_WORDS, max_tokens=8, n=3, ignore_eos=True, **sampling)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert answer["usage"]["completion_tokens"] == 3 * one["usage"]["completion_tokens"]


async def check_length_limit(subject: Subject) -> None:
    """`max_tokens` and its newer name end an answer after exactly as many tokens, with reason `length`."""
    for name in ("max_tokens", "max_completion_tokens"):
        answer = await subject.chat(_WORDS, ignore_eos=True, **{name: 3}, **_GREEDY)
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 3


async def check_stop_strings(subject: Subject) -> None:
    """An answer ends before a stop string, wherever tokens are cut, and says `stop`; streams never show a part."""
    text = content(await subject.chat(_WORDS, max_tokens=24, **_GREEDY))
    assert len(text) > 6, "the model must say something for this check"
    for at in {len(text) // 3, len(text) // 2}:
        stop = text[at : at + 4]
        fields = {"stop": ["\x01never\x01", stop], "max_tokens": 24, **_GREEDY}
        whole = await subject.chat(_WORDS, **fields)
        assert content(whole) == text[: text.index(stop)]
        assert whole["choices"][0]["finish_reason"] == "stop"
        assert (await subject.chat_stream(_WORDS, **fields)).text == content(whole)


async def check_seed(subject: Subject) -> None:
    """Sampling with a seed is repeatable."""
    fields = {"temperature": 1.0, "seed": 11, "max_tokens": 12}
    assert content(await subject.chat(_WORDS, **fields)) == content(await subject.chat(_WORDS, **fields))


async def check_chat_logprobs(subject: Subject) -> None:
    """Every token has its log-probability and as many rivals as asked for, whole and streamed."""
    fields = {"logprobs": True, "top_logprobs": 3, "max_tokens": 6, "ignore_eos": True, **_GREEDY}
    answer = await subject.chat(_WORDS, **fields)
    entries = answer["choices"][0]["logprobs"]["content"]
    assert len(entries) == answer["usage"]["completion_tokens"]
    for entry in entries:
        assert entry["logprob"] <= 0
        assert len(entry["top_logprobs"]) == 3
        assert entry["top_logprobs"][0]["logprob"] == max(one["logprob"] for one in entry["top_logprobs"])
    spelled = bytes(byte for entry in entries for byte in entry["bytes"])
    assert spelled.decode("utf-8", "replace").startswith(content(answer).rstrip("\ufffd"))
    streamed = await subject.chat_stream(_WORDS, **fields)
    written = [one["choices"][0].get("logprobs") for one in streamed.events]
    found = [entry["token"] for one in written if one for entry in one["content"]]
    assert found == [entry["token"] for entry in entries]


async def check_completions(subject: Subject) -> None:
    """A text is continued, whole and streamed; several prompts get their answers in order."""
    fields = {"max_tokens": 8, **_GREEDY}
    whole = Completion.model_validate((await subject.ask(_COMPLETIONS, prompt=_WORDS, **fields)).good)
    streamed = await subject.stream(_COMPLETIONS, prompt=_WORDS, **fields)
    assert streamed.finish_reasons == {0: [whole.choices[0].finish_reason]}
    both = (await subject.ask(_COMPLETIONS, prompt=[_WORDS, "red green blue"], **fields)).good
    assert [choice["index"] for choice in both["choices"]] == [0, 1]
    many = (await subject.ask(_COMPLETIONS, prompt=[_WORDS, "red green blue"], n=2, max_tokens=8, **_SAMPLED)).good
    assert [choice["index"] for choice in many["choices"]] == [0, 1, 2, 3]
    if subject.exact:
        assert streamed.text == whole.choices[0].text == both["choices"][0]["text"]


async def check_echo_with_logprobs(subject: Subject) -> None:
    """`echo` begins with the prompt; `max_tokens` 0 is allowed, as scoring of given texts needs it."""
    said = await subject.ask(_COMPLETIONS, prompt=_WORDS, echo=True, logprobs=2, max_tokens=0)
    choice = said.good["choices"][0]
    logprobs = choice["logprobs"]
    assert choice["text"] == _WORDS
    assert len({len(logprobs[name]) for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")}) == 1
    assert logprobs["token_logprobs"][0] is None
    assert all(one <= 0 for one in logprobs["token_logprobs"][1:])
    assert "".join(logprobs["tokens"]) == _WORDS


async def check_token_prompts(subject: Subject) -> None:
    """A prompt of token ids gets the answer of the text that they spell."""
    ids = (await subject.ask("tokenize", prompt=_WORDS)).good["tokens"]
    fields = {"max_tokens": 6, **_GREEDY}
    by_text = (await subject.ask(_COMPLETIONS, prompt=_WORDS, **fields)).good
    by_ids = (await subject.ask(_COMPLETIONS, prompt=ids, **fields)).good
    assert by_ids["choices"][0]["text"] == by_text["choices"][0]["text"]
    assert by_ids["usage"]["prompt_tokens"] == len(ids)


async def check_tokenize_round_trip(subject: Subject) -> None:
    """Token ids lead back to the text they were made from."""
    for text in (_WORDS, _MANY_SCRIPTS, "a\n\n  b\tc"):
        said = await subject.ask("tokenize", prompt=text, add_special_tokens=False, return_token_strs=True)
        tokens = TokenizeResponse.model_validate(said.good)
        assert tokens.count == len(tokens.tokens) == len(tokens.token_strs or ())
        await _check_offsets(subject, text, tokens.count)
        back = (await subject.ask("detokenize", tokens=tokens.tokens)).good
        assert back["prompt"] == text
    assert (await subject.ask("tokenize", messages=user(_WORDS))).good["count"] > 0


async def _check_offsets(subject: Subject, text: str, count: int) -> None:
    """Where an engine says which characters its tokens are, they are all there, in order; it may say nothing."""
    said = (await subject.ask("tokenize", prompt=text, add_special_tokens=False, return_offsets=True)).good
    offsets = TokenizeResponse.model_validate(said).offsets
    if offsets is None:
        return
    assert len(offsets) == count
    assert all(0 <= start <= end <= len(text) for start, end in offsets)
    assert offsets == sorted(offsets)
    inside = {place for start, end in offsets for place in range(start, end)}
    assert {place for place, one in enumerate(text) if not one.isspace()} <= inside


async def check_json_object(subject: Subject) -> None:
    """`json_object` makes an answer that is JSON, unless it is cut off."""
    answer = await subject.chat(
        "Say hello in JSON.", response_format={"type": "json_object"}, max_tokens=200, **_GREEDY
    )
    if answer["choices"][0]["finish_reason"] == "stop":
        assert isinstance(orjson.loads(content(answer)), dict)


async def check_required_tool(subject: Subject) -> None:
    """`tool_choice` that demands a call gets one, with arguments that are JSON; whole and streamed."""
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
    for choice in ("required", {"type": "function", "function": {"name": "look_up"}}):
        fields = {"tools": [tool], "tool_choice": choice, "max_tokens": 100, **_GREEDY}
        calls = (await subject.chat("Look it up.", **fields))["choices"][0]["message"]["tool_calls"]
        assert calls[0]["id"]
        assert calls[0]["function"]["name"] == "look_up"
        assert isinstance(orjson.loads(calls[0]["function"]["arguments"]), dict)
        events = (await subject.chat_stream("Look it up.", **fields)).events
        parts = [part for one in events for part in one["choices"][0]["delta"].get("tool_calls") or ()]
        parts = [part for part in parts if part["index"] == 0]
        assert parts[0]["function"]["name"] == "look_up"
        assert isinstance(orjson.loads("".join(part["function"].get("arguments") or "" for part in parts)), dict)


async def check_unknown_fields(subject: Subject) -> None:
    """A field that nobody knows does not spoil a request."""
    answer = await subject.chat(_WORDS, max_tokens=4, an_unknown_field={"a": [1, None]}, **_GREEDY)
    assert answer["choices"]


async def check_answers_side_by_side(subject: Subject) -> None:
    """Requests that run together get the answers that each would get alone."""
    texts = [_WORDS, _MANY_SCRIPTS, "red green blue", "a b"]
    alone = [content(await subject.chat(text, max_tokens=12, **_GREEDY)) for text in texts]
    together = await asyncio.gather(*(subject.chat_stream(text, max_tokens=12, **_GREEDY) for text in texts * 2))
    assert [one.text for one in together] == alone * 2


async def check_priorities(subject: Subject) -> None:
    """Requests of every priority get the answers that each would get alone, and none waits forever."""
    texts = [_WORDS, _MANY_SCRIPTS, "red green blue"]
    alone = [content(await subject.chat(text, max_tokens=12, **_GREEDY)) for text in texts]
    subjects = [replace(subject, priority=priority) for priority in (2, 2, 1, 2, 0, 1)]
    asked = [one.chat_stream(text, max_tokens=12, **_GREEDY) for one in subjects for text in texts]
    assert [one.text for one in await asyncio.gather(*asked)] == alone * len(subjects)


async def check_leaving_early(subject: Subject) -> None:
    """An answer that is left in the middle ends at once, and the engine goes on with others."""
    body = {"model": subject.model, "messages": user(_WORDS), "stream": True, "ignore_eos": True, "max_tokens": 2000}
    answer = await subject.engine.generate(EngineCall("req_leaving", _CHAT, orjson.dumps(body)))
    assert answer.status == 200
    chunks = answer.chunks()
    assert await anext(chunks)
    async with asyncio.timeout(_PROMPT_S):
        await answer.aclose()
        await answer.aclose()
        assert (await subject.chat(_WORDS, max_tokens=2, **_GREEDY))["choices"]


async def check_cancelling(subject: Subject) -> None:
    """A request whose waiting task is cancelled leaves the engine as it was."""

    async def read() -> None:
        await subject.chat_stream(_WORDS, ignore_eos=True, max_tokens=2000)

    task = asyncio.create_task(read())
    await asyncio.sleep(0)
    task.cancel()
    async with asyncio.timeout(_PROMPT_S):
        await asyncio.wait([task])
        assert task.cancelled()
        assert (await subject.chat(_WORDS, max_tokens=2, **_GREEDY))["choices"]


async def check_closing(subject: Subject) -> None:
    """A closed engine takes no more requests; closing it again is nothing. Runs last."""
    await subject.engine.aclose()
    await subject.engine.aclose()
    await _refused(lambda: subject.engine.generate(EngineCall("req_late", _CHAT, b"{}")))
    await _refused(subject.engine.probe)


async def _refused(ask: Callable[[], Awaitable[object]]) -> None:
    try:
        await ask()
    except EngineUnreachable:
        return
    raise AssertionError("a closed engine takes no requests")


_LOGPROBS, _TOKENS = frozenset({Feature.LOGPROBS}), frozenset({Feature.TOKEN_PROMPTS})
ENGINE_CHECKS = (
    EngineCheck(check_says_what_it_is),
    EngineCheck(check_chat, _CHAT),
    EngineCheck(check_chat_stream, _CHAT),
    EngineCheck(check_stream_usage, _CHAT),
    EngineCheck(check_stream_and_whole_agree, _CHAT, exact=True),
    EngineCheck(check_several_choices, _CHAT),
    EngineCheck(check_several_greedy_choices, _CHAT, frozenset({Feature.SEVERAL_GREEDY})),
    EngineCheck(check_length_limit, _CHAT),
    EngineCheck(check_stop_strings, _CHAT, exact=True),
    EngineCheck(check_seed, _CHAT, frozenset({Feature.SEED}), exact=True),
    EngineCheck(check_chat_logprobs, _CHAT, _LOGPROBS),
    EngineCheck(check_completions, _COMPLETIONS),
    EngineCheck(check_echo_with_logprobs, _COMPLETIONS, _LOGPROBS | {Feature.ECHO}),
    EngineCheck(check_token_prompts, _COMPLETIONS, _TOKENS, exact=True),
    EngineCheck(check_tokenize_round_trip, "tokenize"),
    EngineCheck(check_json_object, _CHAT),
    EngineCheck(check_required_tool, _CHAT, frozenset({Feature.TOOLS, Feature.ENFORCED_TOOLS})),
    EngineCheck(check_embeddings, _EMBEDDINGS),
    EngineCheck(check_dimensions, _EMBEDDINGS, frozenset({Feature.DIMENSIONS})),
    EngineCheck(check_unknown_fields, _CHAT),
    EngineCheck(check_bad_chats, _CHAT),
    EngineCheck(check_bad_prompts, _COMPLETIONS),
    EngineCheck(check_bad_inputs, _EMBEDDINGS),
    EngineCheck(check_unknown_model, _CHAT),
    EngineCheck(check_answers_side_by_side, _CHAT, exact=True),
    EngineCheck(check_priorities, _CHAT, exact=True),
    EngineCheck(check_reproducible, _CHAT, frozenset({Feature.REPRODUCIBLE})),
    EngineCheck(check_leaving_early, _CHAT),
    EngineCheck(check_cancelling, _CHAT),
    EngineCheck(check_closing),
)
"""Every check, the one that closes the engine last."""

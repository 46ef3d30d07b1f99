"""How requests are turned into llama.cpp's words and its events into answers, on events as the server writes them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.core.errors import BadRequest, EngineLost, EngineUnreachable, ModelNotFound, UnsupportedFeature
from terascope.engines.contract import EngineCall
from terascope.engines.echo.httpd import Exchange, HttpServer
from terascope.engines.remote.dialects import dialect
from terascope.engines.remote.llamacpp import words
from terascope.engines.remote.llamacpp.answers import error_of, usage_of
from terascope.engines.remote.llamacpp.requests import CHAT, COMPLETIONS, Order, order_of
from terascope.engines.remote.llamacpp.schemas import check_schema
from terascope.protocol.openai import TokenizeRequest
from terascope.protocol.sse import DONE, event
from terascope.testing.engine_subject import Subject, user

from .test_dialects import at

_CARD = {"id": "m", "owned_by": "llamacpp", "meta": {"n_ctx": 4096, "n_vocab": 100}}


def order(endpoint: str = COMPLETIONS, /, **fields: object) -> Order:
    body = orjson.dumps({"model": "m", **({"prompt": "a"} if endpoint == COMPLETIONS else {}), **fields})
    return order_of(EngineCall("req_1", endpoint, body), "m")


def bodies(asked: Order) -> list[dict[str, Any]]:
    return [orjson.loads(one) for one in asked.bodies]


def test_each_choice_of_each_prompt_is_asked_for_apart_and_as_a_stream() -> None:
    asked = order(prompt=["a", "b"], n=2, seed=7, max_tokens=3, best_of=2)
    assert [(one["prompt"], one["seed"], one["max_tokens"]) for one in bodies(asked)] == [
        ("a", 7, 3), ("a", 8, 3), ("b", 7, 3), ("b", 8, 3),
    ]  # fmt: skip
    assert all(one["stream"] and "n" not in one and "best_of" not in one for one in bodies(asked))
    assert (asked.choices, asked.plain) == (2, False)
    assert [one["prompt"] for one in bodies(order(prompt=[[1, 2], [3]]))] == [[1, 2], [3]]
    assert [one["prompt"] for one in bodies(order(prompt=[1, 2]))] == [[1, 2]]


def test_what_the_server_knows_is_left_as_it_is() -> None:
    [sent] = bodies(order(CHAT, messages=user("a"), top_k=5, grammar='root ::= "a"', user=None, min_tokens=0, seed=-1))
    assert (sent["top_k"], sent["grammar"], sent["seed"]) == (5, 'root ::= "a"', 2**32 - 2)
    assert not {"user", "min_tokens"} & sent.keys()
    assert order(CHAT, messages=user("a"), stream=True).plain
    assert not order(CHAT, messages=user("a"), stream=True, logprobs=True).plain
    [newer] = bodies(order(CHAT, messages=user("a"), max_tokens=9, max_completion_tokens=2))
    assert newer["max_tokens"] == 2


def test_schemas_of_completions_are_in_its_own_field() -> None:
    wanted = {"type": "json_schema", "json_schema": {"schema": {"type": "integer", "maximum": 5}}}
    [sent] = bodies(order(response_format=wanted))
    assert sent["json_schema"] == {"type": "integer", "maximum": 5}
    assert "response_format" not in sent
    assert bodies(order(response_format={"type": "json_object"}))[0]["json_schema"] == {"type": "object"}
    assert "json_schema" not in bodies(order(response_format={"type": "text"}))[0]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "number", "minimum": 0},
        {"minimum": 0},
        {"properties": {"a": {"items": {"uniqueItems": True}}}},
        {"anyOf": [{"type": "string"}, {"not": {}}]},
        {"$defs": {"a": {"patternProperties": {}}}},
        {"additionalProperties": {"multipleOf": 2}},
    ],
)
def test_a_schema_of_which_a_part_would_be_passed_over(schema: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedFeature, match="does not enforce"):
        check_schema(schema)


def test_names_of_properties_are_no_rules() -> None:
    check_schema({"properties": {"not": {"type": "integer", "minimum": 1}, "if": {"type": "string"}}, "items": False})


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"model": "other"}, ModelNotFound),
        ({"prompt": ""}, BadRequest),
        ({"prompt": [[]]}, BadRequest),
        ({"prompt": None}, BadRequest),
        ({"prompt": ["a"] * 100, "n": 3}, BadRequest),
        ({"n_cmpl": 2}, UnsupportedFeature),
        ({"max_tokens": 0}, BadRequest),
        ({"max_tokens": -1}, BadRequest),
        ({"temperature": -1}, BadRequest),
    ],
)
def test_what_cannot_be_answered(fields: dict[str, object], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        order(**fields)


@given(st.integers(-(2**63), 2**63 - 1), st.integers(1, 5))
def test_seeds_are_its_own_and_never_the_one_for_any(seed: int, n: int) -> None:
    found = [one["seed"] for one in bodies(order(seed=seed, n=n))]
    assert len(set(found)) == n
    assert all(0 <= one < 2**32 - 1 for one in found)


@given(st.integers(1, 4), st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=4))
def test_each_prompt_is_counted_once(choices: int, prompts: list[tuple[int, int]]) -> None:
    usages = [{"prompt_tokens": p, "completion_tokens": c} for p, c in prompts for _ in range(choices)]
    usage = usage_of(Order(COMPLETIONS, (), choices), usages)
    assert usage["prompt_tokens"] == sum(p for p, _ in prompts)
    assert usage["completion_tokens"] == choices * sum(c for _, c in prompts)


@given(st.text(max_size=20), st.data())
def test_offsets_cover_the_text_however_it_is_cut(text: str, data: st.DataObject) -> None:
    raw = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(raw) - 1)), max_size=5)) if raw else [])
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    told = {"tokens": [{"id": number, "piece": list(piece)} for number, piece in enumerate(pieces)]}
    request = TokenizeRequest(prompt=text, return_offsets=True, return_token_strs=True)
    said = orjson.loads(words.tokens_told(request, text, told, 9))
    assert said["count"] == len(said["token_strs"]) == len(said["offsets"])
    assert {at for start, end in said["offsets"] for at in range(start, end)} == set(range(len(text)))


def test_tokens_that_do_not_spell_the_text_have_no_offsets() -> None:
    told = {"tokens": [{"id": 1, "piece": "[CLS]"}, {"id": 2, "piece": "a"}]}
    with pytest.raises(UnsupportedFeature, match="do not spell"):
        words.tokens_told(TokenizeRequest(prompt="a", return_offsets=True), "a", told, 9)


@pytest.mark.parametrize(
    ("status", "said", "code"),
    [
        (400, {"type": "exceed_context_size_error", "message": "too long"}, "context_length_exceeded"),
        (500, {"message": "input (600 tokens) is too large to process. increase"}, "context_length_exceeded"),
        (500, {"message": "image input is not supported - hint"}, "unsupported_feature"),
        (500, {"message": "the current context does not support logits computation. skipping"}, "unsupported_feature"),
        (500, {"message": "Failed to parse tools: Missing tool function"}, "invalid_request"),
        (500, {"message": "out of memory"}, ""),
        (400, {"message": "Field 'n': wrong"}, ""),
    ],
)
def test_what_its_errors_mean(status: int, said: dict[str, str], code: str) -> None:
    meant = error_of(status, orjson.dumps({"error": {"code": status, **said}}))
    assert (meant.code if meant else "") == code


def piece(index: int = 0, **choice: object) -> bytes:
    head = {"id": f"chatcmpl-{index}", "created": 5, "model": "m", "object": "chat.completion.chunk"}
    return event(orjson.dumps({**head, "choices": [{"index": 0, "finish_reason": None, **choice}]}))


def counted(tokens: int) -> bytes:
    usage = {"prompt_tokens": 3, "completion_tokens": tokens, "total_tokens": 3 + tokens}
    return event(orjson.dumps({"id": "x", "object": "chat.completion.chunk", "choices": [], "usage": usage}))


@asynccontextmanager
async def saying(*streams: tuple[int, list[bytes]], slots: int = 2) -> AsyncIterator[Subject]:
    """A server of `slots` whose chats get these statuses and pieces, in the order in which they are asked for."""
    left, running = [*streams], 0

    async def chat(exchange: Exchange) -> None:
        nonlocal running
        running += 1
        assert running <= slots
        status, pieces = left.pop(0)
        await exchange.begin(status, "text/event-stream" if status == 200 else "application/json")
        for one in pieces:
            await exchange.chunk(one)
        running -= 1
        await exchange.end()

    told = {
        "/health": (200, {}),
        "/v1/models": (200, {"data": [_CARD]}),
        "/props": (200, {"total_slots": slots, "build_info": "b1"}),
        "/v1/embeddings": (501, {"error": {"message": "not started for it"}}),
    }

    async def handle(exchange: Exchange) -> None:
        if exchange.request.path == "/v1/chat/completions":
            return await chat(exchange)
        status, said = told[exchange.request.path]
        return await exchange.reply(status, orjson.dumps(said))

    async with at(HttpServer(handle), dialect("llamacpp")) as engine:
        yield Subject(engine, "m", await engine.probe())


def said(text: str, index: int = 0, tokens: int = 2) -> tuple[int, list[bytes]]:
    """A stream that says `text`, cut in the middle of its events as networks do."""
    first, last = piece(index, delta={"role": "assistant", "content": None}), piece(index, delta={"content": text})
    ending = piece(index, delta={}, finish_reason="stop") + counted(tokens)
    return 200, [first[:20], first[20:] + last[:9], last[9:], ending, event(b"null"), DONE]


async def test_what_it_says_of_itself_is_the_probe_s() -> None:
    async with saying(slots=3) as subject:
        assert (subject.info.slots, subject.info.version, subject.info.context_length) == (3, "b1", 4096)
        assert subject.info.capabilities.endpoints == dialect("llamacpp").endpoints - {"embeddings"}
        assert subject.info.capabilities.features == frozenset(map(str, dialect("llamacpp").features))


async def test_streams_are_one_whole_answer() -> None:
    async with saying(said("a"), said("b", 1), said("c", 2), slots=2) as subject:
        answer = await subject.chat("x", n=3)
    assert sorted(one["message"]["content"] for one in answer["choices"]) == ["a", "b", "c"]
    assert {one["finish_reason"] for one in answer["choices"]} == {"stop"}
    assert (answer["object"], answer["usage"]["completion_tokens"]) == ("chat.completion", 6)


async def test_streams_are_one_stream() -> None:
    async with saying(said("a"), said("b", 1), said("c", 2), slots=2) as subject:
        streamed = await subject.chat_stream("x", n=3, stream_options={"include_usage": True})
    assert sorted(streamed.texts.values()) == ["a", "b", "c"]
    assert {*streamed.finish_reasons} == {0, 1, 2}
    assert streamed.events[-1]["usage"]["completion_tokens"] == 6
    assert len({one["id"] for one in streamed.events}) == 1


async def test_calls_of_tools_are_put_together() -> None:
    begun = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}
    more = [{"index": 0, "function": {"arguments": part}} for part in ('{"a"', ":1}")]
    pieces = [piece(delta={"tool_calls": [one]}) for one in (begun, *more)]
    ending = [piece(delta={}, finish_reason="tool_calls"), counted(3), DONE]
    async with saying((200, [*pieces, *ending])) as subject:
        [choice] = (await subject.chat("x"))["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    made = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    assert choice["message"]["tool_calls"] == [made]


_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_is_demanded_is_taken_out_of_the_text(stream: bool) -> None:
    fields = {"tools": [_TOOL], "tool_choice": "required", "n": 2, "stream_options": {"include_usage": True}}
    async with saying(said('{"name": "f", "arguments": {"a": 1}}'), said('{"name": "f", "argu', 1)) as subject:
        if stream:
            streamed = await subject.chat_stream("x", **fields)
            assert streamed.usage == streamed.events[-1]["usage"]
            deltas = [one["choices"][0]["delta"] for one in streamed.events if one["choices"]]
            calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
            assert {*map(tuple, streamed.finish_reasons.values())} == {("tool_calls",), ("stop",)}
        else:
            choices = (await subject.chat("x", **fields))["choices"]
            calls = [call for choice in choices for call in choice["message"].get("tool_calls", ())]
            assert {choice["message"]["content"] for choice in choices} == {None}
    assert [call["function"] for call in calls] == [{"name": "f", "arguments": '{"a":1}'}]


def test_a_demanded_call_is_bound_by_a_schema() -> None:
    other = {"type": "function", "function": {"name": "g"}}
    named = {"type": "function", "function": {"name": "g"}}
    for choice, names in (("required", ["f", "g"]), (named, ["g"])):
        [sent] = bodies(order(CHAT, messages=user("x"), tools=[_TOOL, other], tool_choice=choice))
        bound = sent["response_format"]["json_schema"]["schema"]["anyOf"]
        assert [one["properties"]["name"]["const"] for one in bound] == names
        assert (sent["tool_choice"], len(sent["tools"])) == ("none", 2)  # the model is shown all of them
    with pytest.raises(UnsupportedFeature):
        order(CHAT, messages=user("x"), tools=[_TOOL], tool_choice="required", logprobs=True)


_REFUSED = 400, [orjson.dumps({"error": {"code": 400, "message": "not so", "type": "invalid_request_error"}})]


@pytest.mark.parametrize("stream", [False, True])
async def test_one_refusal_is_the_answer(stream: bool) -> None:
    async with saying(said("a"), _REFUSED, slots=2) as subject:
        answer = await subject.ask("chat/completions", messages=user("x"), n=2, stream=stream)
    assert (answer.status, answer.error["message"]) == (400, "not so")


async def test_a_refusal_after_the_first_choices_is_an_event() -> None:
    async with saying(said("a"), _REFUSED, slots=1) as subject:
        answer = await subject.ask("chat/completions", messages=user("x"), n=2, stream=True)
        assert answer.status == 200
        assert b"not so" in answer.body
    async with saying(said("a"), _REFUSED, slots=1) as subject:
        assert (await subject.ask("chat/completions", messages=user("x"), n=2)).status == 400


async def test_an_error_in_a_stream_is_the_whole_answer_s() -> None:
    error = {"error": {"code": 500, "message": "input (9 tokens) is too large to process"}}
    async with saying((200, [piece(delta={"content": "a"}), event(orjson.dumps(error))])) as subject:
        answer = await subject.ask("chat/completions", messages=user("x"))
    assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stream_without_its_end_is_lost(stream: bool) -> None:
    async with saying(said("a"), (200, [piece(1, delta={"content": "b"})]), slots=2) as subject:
        with pytest.raises(EngineLost, match="before it was complete"):
            await subject.ask("chat/completions", messages=user("x"), n=2, stream=stream)
    assert len(asyncio.all_tasks()) == 1


async def test_a_key_that_is_refused_is_told_by_the_probe() -> None:
    """Its list of models is shown to anybody; what it says of itself is not."""

    async def handle(exchange: Exchange) -> None:
        status = 401 if exchange.request.path == "/props" else 200
        await exchange.reply(status, orjson.dumps({"data": [_CARD]}))

    async with at(HttpServer(handle)) as engine:
        with pytest.raises(EngineUnreachable, match="refuses this gateway's key"):
            await engine.probe()


async def test_a_server_that_tells_nothing_of_itself_is_good_enough() -> None:
    """An older one, or one behind a proxy that passes little."""

    async def handle(exchange: Exchange) -> None:
        here = exchange.request.path in ("/v1/models", "/health")
        await exchange.reply(200 if here else 404, orjson.dumps({"data": [_CARD]}))

    async with at(HttpServer(handle)) as engine:
        info = await engine.probe()
    assert (info.slots, info.context_length, info.version) == (0, 4096, "")
    assert info.capabilities == dialect("llamacpp").capabilities

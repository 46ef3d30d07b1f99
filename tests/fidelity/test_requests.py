"""What the client asked is what the engine is asked."""

from typing import Any

import orjson
import pytest

from terascope.testing.between import Between

pytestmark = pytest.mark.asyncio(loop_scope="module")

ENDPOINTS = ("chat/completions", "completions", "embeddings")
NEVER_HEARD_OF: dict[str, Any] = {
    "top_k": 3,
    "min_p": 0.05,
    "guided_regex": "[a-z]+",
    "structured_outputs": {"choice": ["a", "b"]},
    "chat_template_kwargs": {"enable_thinking": False},
    "prompt_embeds": None,
    "nvext": {"annotations": ["worker_id"]},
    "x_lab": {"run": [1, 2.5, None, True, "\u65e5\u672c\u8a9e"], "": {}},
    "user": "",
}
EVERYTHING: dict[str, Any] = NEVER_HEARD_OF | {
    "temperature": 0,
    "top_p": 1.0,
    "seed": -7,
    "n": 2,
    "max_tokens": None,
    "presence_penalty": -0.0,
    "logit_bias": {},
    "stop": [],
    "tools": [],
    "response_format": None,
    "metadata": {"temperature": "not this"},
}


async def _arrives(through: Between, endpoint: str, *, stream: bool, **fields: object) -> dict[str, Any]:
    """What the engine received, without the field that names the fault."""
    got = await through.ask(stream=stream, endpoint=endpoint, **fields)
    assert got.status == 200, got
    received = through.received(got)
    assert received.path == f"/v1/{endpoint}"
    return {name: value for name, value in received.fields.items() if name != "fault"}


def _prompt(endpoint: str) -> dict[str, Any]:
    said = {"completions": {"prompt": "hello there"}, "embeddings": {"input": "hello there"}}
    return said.get(endpoint, {"messages": [{"role": "user", "content": "hello there"}]})


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_nothing_is_put_in(through: Between, endpoint: str) -> None:
    """SwissAI serving-api #73, fixed in #83: a temperature and a seed were put into every request."""
    assert await _arrives(through, endpoint, stream=False) == {"model": "m", **_prompt(endpoint)}


@pytest.mark.parametrize("endpoint", ENDPOINTS[:2])
async def test_only_usage_is_asked_for_besides(through: Between, endpoint: str) -> None:
    """The first stated exception, and nothing else: a stream's usage is always asked of the engine."""
    expected = {"model": "m", "stream": True, "stream_options": {"include_usage": True}, **_prompt(endpoint)}
    assert await _arrives(through, endpoint, stream=True) == expected
    options = {"continuous_usage_stats": True, "include_usage": False, "x": 1}
    arrived = await _arrives(through, endpoint, stream=True, stream_options=options)
    assert arrived["stream_options"] == options | {"include_usage": True}


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_unknown_fields_reach_the_engine(through: Between, endpoint: str) -> None:
    """FIRST refuses every field that is not in its schema (`extra="forbid"`): `top_k`, `prompt_embeds`, guided_*."""
    arrived = await _arrives(through, endpoint, stream=False, **NEVER_HEARD_OF)
    assert arrived == {"model": "m", **_prompt(endpoint), **NEVER_HEARD_OF}


async def test_every_field_arrives_as_it_was(through: Between) -> None:
    """SwissAI serving-api #73: settings were replaced; here null, 0 and empty lists stay what they are."""
    arrived = await _arrives(through, "chat/completions", stream=False, **EVERYTHING)
    expected = {"model": "m", **_prompt("chat/completions"), **EVERYTHING}
    assert orjson.dumps(arrived, option=orjson.OPT_SORT_KEYS) == orjson.dumps(expected, option=orjson.OPT_SORT_KEYS)


@pytest.mark.parametrize("endpoint", ENDPOINTS[:2])
async def test_stream_is_not_lost_on_the_way(through: Between, endpoint: str) -> None:
    """FIRST, when it was run: a request with `stream: true` reached the engine without `stream`."""
    assert (await _arrives(through, endpoint, stream=True))["stream"] is True
    assert "stream" not in await _arrives(through, endpoint, stream=False)
    body = {"model": "m", "stream": False, **_prompt(endpoint)}
    answer = await through.http.post(f"/v1/{endpoint}", json=body)
    assert through.received(answer).fields == body


async def test_what_cannot_stream_is_not_asked_to(through: Between) -> None:
    """Embeddings stream on engines that say so; an official client would not understand a whole answer."""
    got = await through.ask(stream=True, endpoint="embeddings")
    assert (got.status, got.error["code"]) == (400, "unsupported_feature")


async def test_the_messages_are_not_touched(through: Between) -> None:
    """Messages, their parts and tools are the engine's to read: none is checked, trimmed or put in order."""
    messages = [
        {"role": "system", "content": " a \n", "cache_control": {"type": "ephemeral"}},
        {"role": "assistant", "content": None, "reasoning_content": "so", "tool_calls": []},
        {"role": "user", "content": [{"type": "text", "text": "hello\u0000there \U0001f389", "x": 1}]},
    ]
    arrived = await _arrives(through, "chat/completions", stream=False, messages=messages, tools=[{"type": "x"}][:0])
    assert arrived["messages"] == messages


async def test_the_key_stays_here(through: Between) -> None:
    """What the client shows to the gateway is not shown to the engine; the request's id is."""
    got = await through.ask(headers={"X-Custom": "1", "Cookie": "a=b"})
    headers = through.received(got).headers
    assert {"authorization", "cookie", "x-custom"} & headers.keys() == set()
    assert headers["x-request-id"] == got.id
    assert through.gateway.key not in str(headers)

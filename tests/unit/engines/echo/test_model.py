"""The echo engine as a function; what every engine must do is in test_conformance.py."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from terascope.engines.contract import EngineCall
from terascope.engines.echo.model import CAPABILITIES, MOST_WORK, Echo, Settings, answer
from terascope.protocol.openai import ErrorBody
from terascope.testing.engine_subject import Streamed, user

_SETTINGS = Settings(context_length=100)


def ask(endpoint: str, fields: dict[str, object], limits: Settings = _SETTINGS) -> Echo:
    return answer(limits, EngineCall("req_1", endpoint, orjson.dumps({"model": "m", **fields})), 1)


def said(endpoint: str, **fields: object) -> dict[str, Any]:
    echo = ask(endpoint, fields)
    body = b"".join(echo.parts)
    assert echo.status == 200, body
    answered = orjson.loads(body)
    assert isinstance(answered, dict)
    return answered


def refused(endpoint: str, fields: dict[str, object], limits: Settings = _SETTINGS) -> tuple[int, str, str | None]:
    echo = ask(endpoint, fields, limits)
    error = ErrorBody.model_validate_json(b"".join(echo.parts)).error
    return echo.status, error.code or "", error.param


def chat(*messages: tuple[str, object], **fields: object) -> str:
    conversation = [{"role": role, "content": content} for role, content in messages]
    content = said("chat/completions", messages=conversation, **fields)["choices"][0]["message"]["content"]
    assert isinstance(content, str)
    return content


def test_the_last_user_is_echoed() -> None:
    assert chat(("system", "be kind"), ("user", "a"), ("assistant", "b"), ("user", " c\n"), ("tool", "d")) == " c\n"
    assert chat(("system", "alone")) == "alone"
    assert chat(("user", [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}])) == "a b"
    assert chat(("user", None)) == ""
    assert orjson.loads(chat(("user", "x"), response_format={"type": "json_object"})) == {"echo": "x"}


def test_usage_counts_pieces_and_ids() -> None:
    assert said("chat/completions", messages=user("a b c"))["usage"]["prompt_tokens"] == 3
    assert said("completions", prompt=[104, 105])["usage"] == {
        "prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3,
    }  # fmt: skip
    assert said("embeddings", input=["a b", "c"])["usage"] == {"prompt_tokens": 3, "total_tokens": 3}


def test_events_are_made_when_they_are_asked_for() -> None:
    echo = ask("chat/completions", {"messages": user("a b"), "stream": True, "n": 2})
    events = iter(echo.parts)
    assert next(events).startswith(b"data: {")
    assert (echo.stream, echo.tokens, echo.content_type) == (True, 4, "text/event-stream; charset=utf-8")
    assert list(events)[-1] == b"data: [DONE]\n\n"


def test_streamed_completions_with_echo_and_logprobs() -> None:
    fields: dict[str, object] = {"prompt": "a b", "echo": True, "logprobs": 1, "max_tokens": 1, "stream": True}
    streamed = Streamed.read(b"".join(ask("completions", fields).parts))
    assert streamed.text == "a ba"
    offsets = [one["choices"][0]["logprobs"] for one in streamed.events if one["choices"][0].get("logprobs")]
    assert [one["text_offset"][0] for one in offsets] == [0, 1, 3]
    assert offsets[0]["token_logprobs"] == [None]


def test_a_named_tool_stops_and_a_required_one_calls() -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("a", "b")]
    for choice, name, reason in (
        ("required", "a", "tool_calls"),
        ({"type": "function", "function": {"name": "b"}}, "b", "stop"),
    ):
        answered = said("chat/completions", messages=user("x"), tools=tools, tool_choice=choice)["choices"][0]
        assert answered["message"]["tool_calls"][0]["function"] == {"name": name, "arguments": "{}"}
        assert (answered["finish_reason"], answered["message"]["content"]) == (reason, None)
    assert chat(("user", "x"), tools=tools, tool_choice="auto") == "x"


@pytest.mark.parametrize(
    ("endpoint", "fields", "status", "code", "param"),
    [
        ("responses", {}, 404, "not_found", None),
        ("chat/completions", {"messages": user("a " * 101)}, 400, "invalid_request", "prompt"),
        ("chat/completions", {"messages": user("a"), "top_logprobs": 2}, 400, "invalid_request", "top_logprobs"),
        ("chat/completions", {"messages": user("a"), "min_tokens": 1000}, 400, "invalid_request", "min_tokens"),
        ("chat/completions", {"messages": user("a"), "logit_bias": {"1": 5}}, 400, "unsupported_feature", "logit_bias"),
        (
            "chat/completions",
            {"messages": user("a"), "response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
            400, "unsupported_feature", "response_format",
        ),
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            400, "invalid_request", "messages",
        ),
        (
            "chat/completions",
            {"messages": user("a"), "tool_choice": {"type": "function", "function": {"name": "f"}}},
            400, "invalid_request", "tool_choice",
        ),
        ("completions", {"prompt": "a", "best_of": 1, "n": 2}, 400, "invalid_request", "best_of"),
        ("completions", {"prompt": "a", "suffix": "b"}, 400, "unsupported_feature", "suffix"),
        ("completions", {"prompt": [1] * 101}, 400, "invalid_request", "prompt"),
        ("completions", {"prompt": ["a"] * 3000}, 400, "invalid_request", "prompt"),
        ("embeddings", {"input": "a", "dimensions": 65}, 400, "invalid_request", "dimensions"),
        ("tokenize", {}, 400, "invalid_request", "prompt"),
        ("tokenize", {"prompt": "a", "messages": user("b")}, 400, "invalid_request", "prompt"),
        ("detokenize", {"tokens": [256]}, 400, "invalid_request", "tokens"),
    ],
)  # fmt: skip
def test_refusals(endpoint: str, fields: dict[str, object], status: int, code: str, param: str | None) -> None:
    assert refused(endpoint, fields) == (status, code, param)


def test_only_its_own_name_is_served() -> None:
    named = Settings("this")
    for endpoint in CAPABILITIES.endpoints:
        fields: dict[str, object] = {"messages": user("a"), "prompt": "a", "input": "a", "tokens": [1]}
        if endpoint == "tokenize":
            del fields["messages"]
        assert refused(endpoint, fields, named)[:2] == (404, "model_not_found")


def test_work_has_a_limit() -> None:
    large = Settings(context_length=10**9)
    fields: dict[str, object] = {"messages": user("a"), "ignore_eos": True, "max_tokens": MOST_WORK // 2}
    assert refused("chat/completions", fields | {"n": 3}, large) == (400, "invalid_request", None)
    assert refused("chat/completions", fields | {"logprobs": True, "top_logprobs": 2}, large)[0] == 400
    assert refused("completions", {"prompt": ["a " * (MOST_WORK // 4)] * 5}, large)[0] == 400


def test_tokens_can_be_seen() -> None:
    seen = said("tokenize", prompt="h\u00e9", return_token_strs=True)
    assert seen == {
        "count": 3,
        "max_model_len": 100,
        "tokens": [104, 195, 169],
        "token_strs": ["h", "<0xC3>", "<0xA9>"],
    }
    assert said("tokenize", messages=user("a"))["count"] == len("user: a\n")


json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_FIELDS = (
    "messages", "prompt", "input", "tokens", "stream", "stream_options", "n", "max_tokens", "stop", "logprobs",
    "top_logprobs", "echo", "best_of", "tools", "tool_choice", "response_format", "min_tokens", "ignore_eos",
    "dimensions", "encoding_format", "return_token_strs", "max_completion_tokens", "logit_bias", "add_special_tokens",
)  # fmt: skip
_GOOD: dict[str, dict[str, object]] = {
    "chat/completions": {"messages": user("one two")},
    "completions": {"prompt": "one two"},
    "embeddings": {"input": "one two"},
    "tokenize": {"prompt": "one two"},
    "detokenize": {"tokens": [1, 2]},
}
small = st.none() | st.booleans() | st.integers(-1, 4) | st.text(max_size=3) | st.lists(st.integers(0, 300), max_size=3)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(_GOOD)),
    st.dictionaries(st.sampled_from(_FIELDS), small | json, max_size=4),
)
def test_no_request_is_too_much(endpoint: str, fields: dict[str, object]) -> None:
    body = orjson.dumps({"model": "m", **_GOOD[endpoint], **fields}, default=str) if _fits(fields) else b"{"
    echo = answer(_SETTINGS, EngineCall("req_1", endpoint, body), 1)
    data = b"".join(echo.parts)
    assert echo.status in (200, 400)
    if echo.stream:
        assert Streamed.read(data).done
    else:
        assert isinstance(orjson.loads(data), dict)


def _fits(value: object) -> bool:
    """Whether orjson can write `value`: it has no integers over 64 bits."""
    try:
        orjson.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


@settings(max_examples=200)
@given(st.sampled_from(sorted(_GOOD)), st.binary(max_size=50))
def test_bytes_that_are_no_request(endpoint: str, body: bytes) -> None:
    assert answer(_SETTINGS, EngineCall("req_1", endpoint, body), 1).status == 400

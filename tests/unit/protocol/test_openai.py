import json
import math
from typing import Any

import pytest
from pydantic import ValidationError

from terascope.core.errors import BadRequest
from terascope.protocol.openai import (
    ChatCompletion,
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    NamedToolChoice,
    TokenizeRequest,
    Wire,
)
from terascope.protocol.parse import ignored_fields, load, parse, validate

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


def _chat(**fields: Any) -> ChatCompletionRequest:
    return validate(ChatCompletionRequest, {**CHAT, **fields})


def _refused(kind: type[Wire], fields: dict[str, Any]) -> tuple[str | None, str]:
    with pytest.raises(BadRequest) as caught:
        validate(kind, fields)
    return caught.value.param, str(caught.value)


def test_unknown_fields_are_kept_at_every_depth() -> None:
    request = _chat(new=1, messages=[{"role": "user", "content": [{"type": "x", "y": 2}], "z": 3}])
    assert ignored_fields(request) == ("new",)
    assert request.model_dump(exclude_none=True)["messages"][0] == {
        "role": "user",
        "content": [{"type": "x", "y": 2}],
        "z": 3,
    }


def test_an_integer_may_be_written_with_a_point() -> None:
    assert (_chat(n=2.0).n, _chat(max_tokens=1e3).max_tokens) == (2, 1000)


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 10**30}, "n", "128"),
        ({"n": "2"}, "n", "integer"),
        ({"n": True}, "n", "integer"),
        ({"n": 1.5}, "n", "integer"),
        ({"temperature": math.nan}, "temperature", "finite"),
        ({"temperature": math.inf}, "temperature", "finite"),
        ({"temperature": -0.1}, "temperature", "0"),
        ({"temperature": "1"}, "temperature", "number"),
        ({"temperature": False}, "temperature", "number"),
        ({"top_p": 1.01}, "top_p", "1"),
        ({"seed": 2**63}, "seed", "9223372036854775807"),
        ({"max_tokens": -1}, "max_tokens", "0"),
        ({"max_completion_tokens": 2**31}, "max_completion_tokens", "2147483647"),
        ({"top_logprobs": 21}, "top_logprobs", "20"),
        ({"frequency_penalty": -2.1}, "frequency_penalty", "-2"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5", "100"),
        ({"stop": 5}, "stop", "string"),
        ({"stop": ["a", ""]}, "stop[1]", "at least 1"),
        ({"stop": ["a"] * 17}, "stop", "16"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": None}, "messages", "list"),
        ({"messages": [{"role": "user", "content": [{"type": 5}]}]}, "messages[0].content[0].type", "string"),
        ({"tools": [{"type": "other", "function": {"name": "f"}}]}, "tools[0].type", "function"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "pattern"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function", "required"),
        ({"tool_choice": "sometimes"}, "tool_choice", "required"),
        ({"response_format": {"type": "yaml"}}, "response_format.type", "json_schema"),
        ({"stream": 1}, "stream", "boolean"),
        ({"reproducible": 1}, "reproducible", "boolean"),
        ({"cache_salt": ""}, "cache_salt", "at least 1"),
        ({"cache_salt": "x" * 257}, "cache_salt", "at most 256"),
        ({"cache_salt": 5}, "cache_salt", "string"),
        ({"model": ""}, "model", "at least 1"),
        ({"model": 5}, "model", "string"),
    ],
)
def test_what_is_wrong_is_told_where_it_is(fields: dict[str, Any], param: str, words: str) -> None:
    found, message = _refused(ChatCompletionRequest, {**CHAT, **fields})
    assert found == param
    assert message.startswith(f"{param}: ")
    assert words in message


def test_what_is_missing_is_named() -> None:
    assert _refused(ChatCompletionRequest, {"model": "m"})[0] == "messages"
    assert _refused(CompletionRequest, {"prompt": "x"})[0] == "model"


@pytest.mark.parametrize("prompt", ["a", ["a", "b"], [1, 2], [[1], [2, 3]], [], ""])
def test_prompts(prompt: Any) -> None:
    assert validate(CompletionRequest, {"model": "m", "prompt": prompt}).prompt == prompt
    assert validate(EmbeddingRequest, {"model": "m", "input": prompt}).input == prompt


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        ([1, "a"], "prompt[1]"),
        ([-1], "prompt[0]"),
        ([[1], ["a"]], "prompt[1][0]"),
        (5, "prompt"),
        ([2**31], "prompt[0]"),
    ],
)
def test_prompts_that_are_none(prompt: Any, param: str) -> None:
    assert _refused(CompletionRequest, {"model": "m", "prompt": prompt})[0] == param


def test_choices_of_tools() -> None:
    named = _chat(tool_choice={"type": "function", "function": {"name": "f"}}).tool_choice
    assert isinstance(named, NamedToolChoice)
    assert named.function.name == "f"
    assert _chat(tool_choice="required").tool_choice == "required"


def test_a_schema_keeps_its_name_on_the_wire() -> None:
    asked = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
    request = _chat(response_format=asked)
    assert request.response_format is not None
    assert request.response_format.json_schema is not None
    assert request.response_format.json_schema.json_schema == {"type": "object"}


def test_tokenize_needs_no_model() -> None:
    assert validate(TokenizeRequest, {"prompt": "x"}).model is None


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b'{"a": NaN}', b'{"a": "\xff"}', b"[" * 5000, b"null"])
def test_what_is_no_object_of_json_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest, match="body"):
        load(body)


def test_parse() -> None:
    assert parse(ChatCompletionRequest, json.dumps(CHAT).encode()).messages[0].content == "x"


def test_the_openapi_tells_the_limits() -> None:
    schema = ChatCompletionRequest.model_json_schema()["properties"]
    assert schema["n"]["anyOf"][0] == {"maximum": 128, "minimum": 1, "type": "integer"}
    assert schema["temperature"]["anyOf"][0] == {"maximum": 100, "minimum": 0, "type": "number"}
    assert schema["stop"]["anyOf"][1]["maxItems"] == 16


def test_answers_are_checked_too() -> None:
    with pytest.raises(ValidationError):
        ChatCompletion.model_validate({"id": "x", "object": "chat.completion", "created": 1, "model": "m"})

"""Calls of tools that are demanded: by itself the server lets a model talk for as long as it likes before it calls one.

The model is shown the tools, and bound by a schema to write one call; the call is taken out of its text.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from terascope.core.errors import BadRequest
from terascope.core.ids import new_id
from terascope.protocol.openai import ChatCompletionRequest, NamedToolChoice, Tool
from terascope.protocol.sse import DONE, event


def demanded(request: ChatCompletionRequest) -> list[Tool]:
    """Return the tools of which one must be called; none where that is the model's to decide. Raises `BadRequest`."""
    choice, tools = request.tool_choice, request.tools or []
    if choice in (None, "none", "auto"):
        return []
    if isinstance(choice, NamedToolChoice):
        tools = [one for one in tools if one.function.name == choice.function.name]
    if not tools:
        raise BadRequest("tool_choice demands a call of a tool that is not among `tools`", param="tool_choice")
    return tools


def schema_of(tools: list[Tool]) -> dict[str, Any]:
    """Return the schema of a call of one of `tools`."""
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": one.function.name},
                "arguments": one.function.parameters or {"type": "object"},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for one in tools
    ]
    return {"anyOf": calls}


def as_call(choice: Mapping[str, Any]) -> dict[str, Any]:
    """Return a chat's choice with its text as a call; one that was cut off before its end has none."""
    message: dict[str, Any] = {"role": "assistant", "content": None}
    try:
        said = orjson.loads(choice["message"]["content"])
    except orjson.JSONDecodeError:
        return {**choice, "message": message}
    function = {"name": said["name"], "arguments": orjson.dumps(said["arguments"]).decode()}
    message["tool_calls"] = [{"id": new_id("call"), "type": "function", "function": function}]
    return {**choice, "message": message, "finish_reason": "tool_calls"}


def as_stream(answer: Mapping[str, Any], *, usage: bool) -> bytes:
    """Return a whole chat as a stream of events; `usage` says whether it ends with what it took."""
    head = {name: answer[name] for name in ("id", "created", "model") if name in answer}
    head["object"] = "chat.completion.chunk"
    events = []
    for choice in answer["choices"]:
        calls = choice["message"].get("tool_calls", [])
        delta = choice["message"] | {"tool_calls": [{"index": at} | one for at, one in enumerate(calls)]}
        for piece, reason in ((delta, None), ({}, choice["finish_reason"])):
            events.append(head | {"choices": [{"index": choice["index"], "delta": piece, "finish_reason": reason}]})
    if usage:
        events.append(head | {"choices": [], "usage": answer["usage"]})
    return b"".join(event(orjson.dumps(one)) for one in events) + DONE

"""The sources of an answer, added to what the engine said of it."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from terascope.protocol.sse import StreamReader, event

Annotations = Sequence[Mapping[str, Any]]


def annotated(said: dict[str, Any], annotations: Annotations) -> bytes:
    """The body of a whole answer whose messages all have `annotations`, after those that the engine gave them."""
    choices = said.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        message = choice.get("message") if isinstance(choice, dict) else None
        if isinstance(message, dict):
            given = message.get("annotations")
            message["annotations"] = [*(given if isinstance(given, list) else ()), *annotations]
    return orjson.dumps(said)


def annotation_event(annotations: Annotations, reader: StreamReader, choices: int, model: str) -> bytes:
    """The event of a stream that says `annotations`, the last before its end; nothing where there are none."""
    if not annotations:
        return b""
    deltas = [
        {"index": index, "delta": {"annotations": list(annotations)}, "finish_reason": None} for index in range(choices)
    ]
    told = {
        "id": reader.answer_id, "object": "chat.completion.chunk", "created": int(time.time()), "model": model,
        "choices": deltas,
    }  # fmt: skip
    return event(orjson.dumps(told))

"""The events of one stream of llama.cpp's server, and the whole answer that they are together.

Whole answers are asked for as streams, too: the server notices at once that a stream is not read any more, and of a
whole answer often not before it is made.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import orjson

from terascope.core.errors import EngineLost
from terascope.engines.contract import EngineAnswer
from terascope.protocol.sse import event_data, split_events

_TEXTS = ("content", "reasoning_content")


async def events_of(answer: EngineAnswer) -> AsyncGenerator[dict[str, Any], None]:
    """Yield what the events say, to the last one or the first that tells of an error; the answer is closed then.

    Of an answer that is an error there is one, its body. Raises `EngineLost` when the stream ends before its end.
    """
    rest = b""
    try:
        async for chunk in answer.chunks():
            rest += chunk
            if answer.status != 200:
                continue
            whole = split_events(rest)
            rest = rest[sum(map(len, whole)) :]
            for data in map(event_data, whole):
                said = None if data == b"[DONE]" else orjson.loads(data or b"null")
                if isinstance(said, dict):  # it says `null`, too
                    yield said
                if data == b"[DONE]" or (isinstance(said, dict) and "error" in said):
                    return
        if answer.status == 200:
            raise EngineLost("the server ended its answer before it was complete")
        yield orjson.loads(rest)
    finally:
        await answer.aclose()


async def gathered(answer: EngineAnswer) -> dict[str, Any]:
    """Return the whole answer with its one choice, or an error that was told later. Raises as `events_of`."""
    whole = _Whole()
    async with aclosing(events_of(answer)) as events:
        async for said in events:
            if "error" in said:
                return said
            whole.take(said)
    return whole.answer()


class _Whole:
    """One choice of a chat or a completion, as it grows."""

    def __init__(self) -> None:
        self._head: dict[str, Any] = {}
        self._choice: dict[str, Any] = {"index": 0, "finish_reason": None}
        self._texts: dict[str, list[str]] = {}
        self._calls: dict[int, dict[str, Any]] = {}
        self._logprobs: list[Any] = []

    def take(self, said: Mapping[str, Any]) -> None:
        self._head |= {name: value for name, value in said.items() if name != "choices"}
        for choice in said.get("choices") or ():
            self._choice["finish_reason"] = choice.get("finish_reason") or self._choice["finish_reason"]
            self._logprobs += (choice.get("logprobs") or {}).get("content") or []
            delta = choice.get("delta") or {}
            for name, piece in (("text", choice.get("text")), *((name, delta.get(name)) for name in _TEXTS)):
                if piece is not None:
                    self._texts.setdefault(name, []).append(piece)
            for call in delta.get("tool_calls") or ():
                self._take_call(call)

    def answer(self) -> dict[str, Any]:
        texts = {name: "".join(pieces) for name, pieces in self._texts.items()}
        chat = self._head.get("object") == "chat.completion.chunk"
        choice = self._choice | {"logprobs": {"content": self._logprobs} if self._logprobs else None}
        if not chat:
            return self._head | {"choices": [choice | {"text": texts.get("text", "")}]}
        message: dict[str, Any] = {"role": "assistant", "content": texts.get("content")} | texts
        if self._calls:
            message["tool_calls"] = [self._calls[index] for index in sorted(self._calls)]
        elif message["content"] is None:
            message["content"] = ""
        return self._head | {"object": "chat.completion", "choices": [choice | {"message": message}]}

    def _take_call(self, call: Mapping[str, Any]) -> None:
        known = self._calls.setdefault(call.get("index", 0), {"id": "", "type": "function", "function": {}})
        known["id"] = call.get("id") or known["id"]
        for name, piece in (call.get("function") or {}).items():
            known["function"][name] = known["function"].get(name, "") + (piece or "")

"""The echo engine's answers as OpenAI writes them."""

import base64
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import orjson

from terascope.engines.echo import text
from terascope.protocol.sse import DONE, event

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Head:
    """What every event of an answer says."""

    id: str
    created: int
    model: str


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call; no argument is the least that is JSON."""

    name: str
    arguments: str = "{}"


@dataclass(frozen=True)
class Choice:
    """One choice: its pieces, why it ended, how many rivals of each piece to show (None: no log-probabilities).

    `prompt` are the pieces of the prompt that the choice begins with (`echo`); with `tool` the pieces are the
    arguments of a tool call.
    """

    index: int
    pieces: tuple[str, ...]
    finish_reason: str
    logprobs: int | None = None
    prompt: tuple[str, ...] = ()
    tool: Call | None = None

    @cached_property
    def shown(self) -> tuple[str, ...]:
        """All pieces that the answer shows."""
        return self.prompt + self.pieces

    @cached_property
    def offsets(self) -> list[int]:
        """Where each of them begins."""
        return [0, *accumulate(len(piece) for piece in self.shown)]


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """The usage object."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


class Shape(ABC):
    """How one endpoint writes choices, whole and in events."""

    kind: str
    event_kind: str

    def whole(self, head: Head, choices: Sequence[Choice], usage: Json) -> bytes:
        """The body of an answer that is not streamed."""
        written = [self.choice(one) | {"finish_reason": one.finish_reason} for one in choices]
        return orjson.dumps(self._object(head, self.kind, written) | {"usage": usage})

    def events(self, head: Head, choices: Sequence[Choice], usage: Json | None) -> Iterator[bytes]:
        """The events of a stream: the choices take turns, one piece each; `usage` comes last, if at all."""
        for deltas in self._rounds(choices):
            yield event(orjson.dumps(self._object(head, self.event_kind, [deltas])))
        if usage is not None:
            yield event(orjson.dumps(self._object(head, self.event_kind, []) | {"usage": usage}))
        yield DONE

    def _rounds(self, choices: Sequence[Choice]) -> Iterator[Json]:
        for one in choices:
            yield from (self._written(one, delta) for delta in self.opening(one))
        for place in range(max(len(one.shown) for one in choices)):
            for one in choices:
                if place < len(one.shown):
                    yield self._written(one, self.delta(one, place))
        for one in choices:
            yield self._written(one, self.closing(), one.finish_reason)

    def _written(self, one: Choice, delta: Json, finish_reason: str | None = None) -> Json:
        return {"index": one.index, "logprobs": None, **delta, "finish_reason": finish_reason}

    def _object(self, head: Head, kind: str, choices: list[Json]) -> Json:
        return {"id": head.id, "object": kind, "created": head.created, "model": head.model, "choices": choices}

    @abstractmethod
    def choice(self, one: Choice) -> Json:
        """A whole choice."""

    @abstractmethod
    def opening(self, one: Choice) -> list[Json]:
        """What a choice's stream begins with."""

    @abstractmethod
    def delta(self, one: Choice, place: int) -> Json:
        """One piece."""

    @abstractmethod
    def closing(self) -> Json:
        """What the event with the finish reason says besides."""


class _Chat(Shape):
    kind = "chat.completion"
    event_kind = "chat.completion.chunk"

    def choice(self, one: Choice) -> Json:
        message: Json = {"role": "assistant", "content": None if one.tool else "".join(one.pieces)}
        if one.tool:
            message["tool_calls"] = [_call(one.index, one.tool.name, "".join(one.pieces))]
        return {"index": one.index, "message": message, "logprobs": _chat_logprobs(one, range(len(one.pieces)))}

    def opening(self, one: Choice) -> list[Json]:
        role: Json = {"role": "assistant", "content": None if one.tool else ""}
        if not one.tool:
            return [{"delta": role}]
        return [{"delta": role}, {"delta": {"tool_calls": [{"index": 0, **_call(one.index, one.tool.name, "")}]}}]

    def delta(self, one: Choice, place: int) -> Json:
        if one.tool:
            return {"delta": {"tool_calls": [{"index": 0, "function": {"arguments": one.pieces[place]}}]}}
        logprobs = _chat_logprobs(one, range(place, place + 1))
        return {"delta": {"content": one.pieces[place]}, "logprobs": logprobs}

    def closing(self) -> Json:
        return {"delta": {}}


class _Completion(Shape):
    kind = "text_completion"
    event_kind = "text_completion"

    def choice(self, one: Choice) -> Json:
        logprobs = _completion_logprobs(one, range(len(one.shown)))
        return {"index": one.index, "text": "".join(one.shown), "logprobs": logprobs}

    def opening(self, one: Choice) -> list[Json]:
        return []

    def delta(self, one: Choice, place: int) -> Json:
        return {"text": one.shown[place], "logprobs": _completion_logprobs(one, range(place, place + 1))}

    def closing(self) -> Json:
        return {"text": ""}


CHAT = _Chat()
COMPLETION = _Completion()


def _call(choice: int, name: str, arguments: str) -> Json:
    return {"id": f"call_{choice}", "type": "function", "function": {"name": name, "arguments": arguments}}


def _chat_logprobs(one: Choice, places: range) -> Json | None:
    if one.logprobs is None:
        return None
    return {"content": [_chat_entry(one.pieces[place], place, one.logprobs) for place in places], "refusal": None}


def _chat_entry(piece: str, place: int, rivals: int) -> Json:
    top = [_token(*rival) for rival in text.rivals(piece, place, rivals)]
    return _token(piece, text.logprob(piece, place)) | {"top_logprobs": top}


def _token(piece: str, logprob: float) -> Json:
    return {"token": piece, "logprob": logprob, "bytes": list(piece.encode())}


def _completion_logprobs(one: Choice, places: range) -> Json | None:
    """Lists of equal length; the first piece of an echoed prompt has nothing before it, so no log-probability."""
    if one.logprobs is None:
        return None
    bare = 1 if one.prompt else 0
    rivals = max(one.logprobs, 1)
    known = [(one.shown[place], place) if place >= bare else None for place in places]
    return {
        "tokens": [one.shown[place] for place in places],
        "token_logprobs": [text.logprob(*at) if at else None for at in known],
        "top_logprobs": [dict(text.rivals(*at, rivals)) if at else None for at in known],
        "text_offset": [one.offsets[place] for place in places],
    }


def embeddings(model: str, vectors: Sequence[Sequence[float]], prompt_tokens: int, encoding: str) -> bytes:
    """The body of an embeddings answer."""
    data = [{"object": "embedding", "index": i, "embedding": _encoded(one, encoding)} for i, one in enumerate(vectors)]
    spent = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return orjson.dumps({"object": "list", "data": data, "model": model, "usage": spent})


def _encoded(vector: Sequence[float], encoding: str) -> str | Sequence[float]:
    return base64.b64encode(text.packed(vector)).decode() if encoding == "base64" else vector

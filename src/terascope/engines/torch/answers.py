"""OpenAI's answers, made of the loop's events; whole or as the events of a stream."""

import codecs
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from terascope.core.ids import new_id
from terascope.engines.torch.intake import Order
from terascope.engines.torch.rows import Event
from terascope.engines.torch.sampling import TokenInfo
from terascope.engines.torch.tools import CallDelta, Pieces, Reader
from terascope.engines.worker.text import TokenTable

Json = dict[str, Any]
_LEAST_LOGPROB = -9999.0  # JSON has no minus infinity


class Answer(Protocol):
    """One answer in the making."""

    def push(self, event: Event) -> list[Json]:
        """Take an event of the loop in; return the events it makes in a stream."""
        ...

    def whole(self) -> Json:
        """Return the whole answer, once all its choices are finished."""
        ...

    def usage_event(self) -> Json:
        """Return the last event of a stream that was asked for usage."""
        ...


class _Base:
    """What the two kinds of answers have in common."""

    kind: ClassVar[str]
    chunk_kind: ClassVar[str]
    prefix: ClassVar[str]

    def __init__(self, order: Order, table: TokenTable, model: str, fingerprint: str) -> None:
        self._order = order
        self._table = table
        self._made = [0] * len(order.rows)
        self._cached = [0] * len(order.rows)
        self._scored = order.rows[0].sampling.logprobs is not None
        self._head = {
            "id": new_id(self.prefix),
            "object": self.chunk_kind,
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }

    def usage(self) -> Json:
        """What has been used so far."""
        prompt, made = self._order.prompt_tokens, sum(self._made)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": made,
            "total_tokens": prompt + made,
            "prompt_tokens_details": {"cached_tokens": sum(self._cached[:: self._order.n])},
        }

    def usage_event(self) -> Json:
        """See `Answer.usage_event`."""
        return {**self._event([]), "usage": self.usage()}

    def _count(self, event: Event) -> None:
        self._made[event.index], self._cached[event.index] = event.made, event.cached

    def _whole(self, choices: list[Json]) -> Json:
        return {**self._head, "object": self.kind, "choices": choices, "usage": self.usage()}

    def _event(self, choices: list[Json]) -> Json:
        return {**self._head, "choices": choices}


@dataclass(slots=True)
class _Call:
    id: str
    name: str
    arguments: str = ""


@dataclass(slots=True)
class _ChatChoice:
    reader: Reader
    begun: bool = False
    content: str = ""
    calls: list[_Call] = field(default_factory=list)
    logprobs: list[Json] = field(default_factory=list)
    finish: str = ""


class ChatAnswer(_Base):
    """Answer of `/v1/chat/completions`."""

    kind, chunk_kind, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def __init__(self, order: Order, table: TokenTable, model: str, fingerprint: str) -> None:
        super().__init__(order, table, model, fingerprint)
        self._choices = [_ChatChoice(order.tools.reader()) for _ in order.rows]

    def push(self, event: Event) -> list[Json]:
        """See `Answer.push`."""
        choice = self._choices[event.index]
        self._count(event)
        events = [] if choice.begun else [self._chunk(event.index, {"role": "assistant", "content": ""})]
        choice.begun = True
        content, calls = _read(choice.reader, event)
        logprobs = [_chat_logprob(info, self._table) for info in event.tokens]
        choice.content += content
        choice.logprobs += logprobs
        if content or logprobs:
            events.append(self._chunk(event.index, {"content": content}, logprobs))
        events += [self._chunk(event.index, {"tool_calls": [_call_delta(call, choice.calls)]}) for call in calls]
        if event.finish is not None:
            choice.finish = "tool_calls" if choice.calls and event.finish == "stop" else event.finish.value
            events.append(self._chunk(event.index, {}, finish=choice.finish))
        return events

    def whole(self) -> Json:
        """See `Answer.whole`."""
        choices = [
            {
                "index": index,
                "message": _message(choice),
                "logprobs": {"content": choice.logprobs, "refusal": None} if self._scored else None,
                "finish_reason": choice.finish,
            }
            for index, choice in enumerate(self._choices)
        ]
        return self._whole(choices)

    def _chunk(self, index: int, delta: Json, logprobs: Sequence[Json] = (), finish: str | None = None) -> Json:
        told = {"content": list(logprobs), "refusal": None} if logprobs else None
        choice = {"index": index, "delta": delta, "logprobs": told, "finish_reason": finish}
        return self._event([choice])


@dataclass(slots=True)
class _TextChoice:
    text: str = ""
    prompt: list[TokenInfo] = field(default_factory=list)
    begun: bool = False
    logprobs: Json | None = None
    finish: str | None = None
    length: int = 0
    decoder: codecs.IncrementalDecoder = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))


class CompletionAnswer(_Base):
    """Answer of `/v1/completions`."""

    kind = chunk_kind = "text_completion"
    prefix = "cmpl"

    def __init__(self, order: Order, table: TokenTable, model: str, fingerprint: str) -> None:
        super().__init__(order, table, model, fingerprint)
        self._choices = [_TextChoice() for _ in order.rows]

    def push(self, event: Event) -> list[Json]:
        """See `Answer.push`."""
        choice = self._choices[event.index]
        choice.prompt += event.prompt
        self._count(event)
        if event.prompt and not event.finish and not event.text:
            return []  # the prompt goes out as one, with the first event of the answer itself
        events = [] if choice.begun or not self._order.texts else [self._echo(event.index)]
        choice.begun = True
        logprobs = self._logprobs(choice, event.tokens) if self._scored else None
        finish = choice.finish = event.finish.value if event.finish else None
        return [*events, self._piece(event.index, event.text, logprobs, finish)]

    def whole(self) -> Json:
        """See `Answer.whole`."""
        choices = [
            {"index": i, "text": one.text, "logprobs": one.logprobs, "finish_reason": one.finish}
            for i, one in enumerate(self._choices)
        ]
        return self._whole(choices)

    def _echo(self, index: int) -> Json:
        choice = self._choices[index]
        place = index // self._order.n
        logprobs = None
        if self._scored:
            first = TokenInfo(self._order.prompts[place][0])
            logprobs = self._logprobs(choice, [first, *choice.prompt])
            choice.decoder.reset()
            choice.length = len(self._order.texts[place])
        return self._piece(index, self._order.texts[place], logprobs, None)

    def _piece(self, index: int, text: str, logprobs: Json | None, finish: str | None) -> Json:
        choice = self._choices[index]
        choice.text += text
        if logprobs is not None and choice.logprobs is not None:
            choice.logprobs = {key: choice.logprobs[key] + logprobs[key] for key in logprobs}
        choice.logprobs = choice.logprobs or logprobs
        told = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}
        return self._event([told])

    def _logprobs(self, choice: _TextChoice, infos: Sequence[TokenInfo]) -> Json:
        found: Json = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for info in infos:
            found["tokens"].append(self._table.name(info.token))
            found["token_logprobs"].append(None if info.logprob is None else max(info.logprob, _LEAST_LOGPROB))
            found["top_logprobs"].append(self._rivals(info))
            found["text_offset"].append(choice.length)
            choice.length += len(choice.decoder.decode(self._table.text_bytes(info.token)))
        return found

    def _rivals(self, info: TokenInfo) -> dict[str, float] | None:
        """The likeliest tokens, and the one that came, as OpenAI lists them."""
        if info.logprob is None:
            return None
        found: dict[str, float] = {}
        for token, logprob in (*info.top, (info.token, info.logprob)):
            found.setdefault(self._table.name(token), max(logprob, _LEAST_LOGPROB))
        return found


def _read(reader: Reader, event: Event) -> Pieces:
    content, calls = reader.push(event.text)
    if event.finish is not None:
        rest, more = reader.finish()
        return content + rest, calls + more
    return content, calls


def _message(choice: _ChatChoice) -> Json:
    message: Json = {"role": "assistant", "content": choice.content or (None if choice.calls else ""), "refusal": None}
    if choice.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in choice.calls
        ]
    return message


def _call_delta(delta: CallDelta, calls: list[_Call]) -> Json:
    """Add `delta` to `calls`; return it as a stream tells it."""
    if delta.name:
        calls.append(_Call(delta.id, delta.name, delta.arguments))
        function = {"name": delta.name, "arguments": delta.arguments}
        return {"index": delta.index, "id": delta.id, "type": "function", "function": function}
    calls[delta.index].arguments += delta.arguments
    return {"index": delta.index, "function": {"arguments": delta.arguments}}


def _chat_logprob(info: TokenInfo, table: TokenTable) -> Json:
    own = _named(info.token, info.logprob or 0.0, table)
    return {**own, "top_logprobs": [_named(token, logprob, table) for token, logprob in info.top]}


def _named(token: int, logprob: float, table: TokenTable) -> Json:
    name = table.name_bytes(token)
    return {"token": table.name(token), "logprob": max(logprob, _LEAST_LOGPROB), "bytes": list(name)}

"""OpenAI's answers, made of the pipeline's news; whole or as the events of a stream."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from terascope.core.ids import new_id
from terascope.engines.openvino.intake import Order
from terascope.engines.openvino.pipeline import News
from terascope.engines.worker.text import TextStream, TokenTable

Json = dict[str, Any]


@dataclass(slots=True)
class _Choice:
    stream: TextStream[int]
    made: int = 0
    text: str = ""
    finish: str | None = None
    begun: bool = False


@dataclass(slots=True)
class Answer:
    """One answer in the making, to a conversation (`chat`) or to texts."""

    order: Order
    table: TokenTable
    ends: frozenset[int]
    model: str
    chat: bool
    _choices: list[_Choice] = field(init=False)
    _head: Json = field(init=False)

    def __post_init__(self) -> None:
        self._choices = [_Choice(TextStream(self.order.stops)) for _ in self.order.rows]
        kind = "chat.completion" if self.chat else "text_completion"
        name = new_id("chatcmpl" if self.chat else "cmpl")
        self._head = {"id": name, "object": kind, "created": int(time.time()), "model": self.model}

    @property
    def over(self) -> bool:
        """True when all choices are finished."""
        return all(one.finish for one in self._choices)

    def push(self, index: int, news: News) -> list[Json]:
        """Take news of a row in; return the events that they make in a stream. Raises the error that ended it."""
        choice = self._choices[index]
        if choice.finish is not None:
            return []
        for token, _ in news.tokens:
            choice.made += 1
            ended = token in self.ends and not self.order.rows[index].config.ignore_eos
            if not ended:
                may_stop = choice.made >= self.order.rows[index].config.min_new_tokens
                choice.stream.push(self.table.text_bytes(token), token, may_stop=may_stop)
            if choice.stream.stopped:
                break
        if news.error is not None:
            raise news.error
        text = choice.stream.take()[0]
        if news.over or choice.stream.stopped:
            text += choice.stream.finish()[0]
            full = choice.made >= self.order.rows[index].config.max_new_tokens
            choice.finish = "stop" if choice.stream.stopped or news.stopped or not full else "length"
        choice.text += text
        return self._events(index, choice, text)

    def finished(self, index: int) -> bool:
        """True when the choice `index` has ended."""
        return self._choices[index].finish is not None

    def usage(self) -> Json:
        """What has been used so far."""
        prompt, made = self.order.prompt_tokens, sum(one.made for one in self._choices)
        return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}

    def usage_event(self) -> Json:
        """Return the last event of a stream that was asked for usage."""
        return {**self._event([]), "usage": self.usage()}

    def whole(self) -> Json:
        """Return the whole answer, once all its choices are finished."""
        choices = [self._whole(index, one) for index, one in enumerate(self._choices)]
        return {**self._head, "choices": choices, "usage": self.usage()}

    def _whole(self, index: int, choice: _Choice) -> Json:
        message = {"role": "assistant", "content": choice.text, "refusal": None}
        said = {"message": message} if self.chat else {"text": choice.text}
        return {"index": index, **said, "logprobs": None, "finish_reason": choice.finish}

    def _events(self, index: int, choice: _Choice, text: str) -> list[Json]:
        if not self.chat:
            if not text and choice.finish is None:
                return []
            one = {"index": index, "text": text, "logprobs": None, "finish_reason": choice.finish}
            return [self._event([one])]
        deltas: list[tuple[Json, str | None]] = []
        if not choice.begun:
            deltas.append(({"role": "assistant", "content": ""}, None))
            choice.begun = True
        deltas += [({"content": text}, None)] if text else []
        deltas += [({}, choice.finish)] if choice.finish else []
        return [
            self._event([{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}])
            for delta, finish in deltas
        ]

    def _event(self, choices: Sequence[Json]) -> Json:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return {**self._head, "object": kind, "choices": list(choices)}

"""An engine under test, and what it said: answers and streams taken apart."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import orjson

from terascope.engines.contract import Engine, EngineCall, EngineInfo, Headers
from terascope.protocol.sse import event_data, split_events

_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Said:
    """A whole answer."""

    status: int
    headers: Headers
    body: bytes

    @property
    def object(self) -> dict[str, Any]:
        """The body, which must be a JSON object."""
        said = orjson.loads(self.body)
        assert isinstance(said, dict), said
        return said

    @property
    def good(self) -> dict[str, Any]:
        """The body of an answer that must be a success."""
        assert self.status == 200, (self.status, self.body[:500])
        assert self.headers["content-type"].startswith("application/json"), self.headers
        return self.object

    @property
    def error(self) -> dict[str, Any]:
        """The error that must be in the body, in OpenAI's shape."""
        error = self.object["error"]
        assert isinstance(error["message"], str), error
        assert error["message"], error
        assert isinstance(error["type"], str), error
        return dict(error)


@dataclass(frozen=True, slots=True)
class Streamed:
    """A stream, event by event."""

    events: list[dict[str, Any]]
    done: bool
    usage: dict[str, Any] | None = None
    texts: Mapping[int, str] = field(default_factory=dict)
    finish_reasons: Mapping[int, list[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, body: bytes) -> "Streamed":
        """Take a stream's bytes apart; every event must be JSON, and nothing may follow `[DONE]`."""
        payloads = [data for one in split_events(body) if (data := event_data(one))]
        done = bool(payloads) and payloads[-1] == b"[DONE]"
        events = [orjson.loads(data) for data in (payloads[:-1] if done else payloads)]
        texts: dict[int, str] = defaultdict(str)
        reasons: dict[int, list[str]] = defaultdict(list)
        usage = None
        for one in events:
            usage = one.get("usage") or usage
            for choice in one["choices"]:
                texts[choice["index"]] += choice.get("text") or choice.get("delta", {}).get("content") or ""
                if choice.get("finish_reason"):
                    reasons[choice["index"]].append(choice["finish_reason"])
        return cls(events, done, usage, dict(texts), dict(reasons))

    @property
    def text(self) -> str:
        """The text of the first choice."""
        return self.texts.get(0, "")


@dataclass(frozen=True, slots=True)
class Subject:
    """An engine, the model it serves, and what it says of itself.

    `exact`: the same request gets the same text, whatever runs beside it (temperature 0, a seed). `priority` is that
    of its calls.
    """

    engine: Engine
    model: str
    info: EngineInfo
    exact: bool = True
    priority: int = 1

    async def ask(self, endpoint: str, **fields: object) -> Said:
        """Send a request and take in its whole answer."""
        return await self.send(endpoint, orjson.dumps({"model": self.model, **fields}))

    async def send(self, endpoint: str, body: bytes) -> Said:
        """Send bytes and take in the whole answer."""
        answer = await self.engine.generate(
            EngineCall(f"req_check{next(_numbers)}", endpoint, body, priority=self.priority)
        )
        try:
            data = b"".join([chunk async for chunk in answer.chunks()])
        finally:
            await answer.aclose()
        return Said(answer.status, answer.headers, data)

    async def stream(self, endpoint: str, **fields: object) -> Streamed:
        """Send a request with `stream`; its answer must be a stream that ends in `[DONE]`."""
        said = await self.ask(endpoint, stream=True, **fields)
        assert said.status == 200, (said.status, said.body[:500])
        assert said.headers["content-type"].startswith("text/event-stream"), said.headers
        streamed = Streamed.read(said.body)
        assert streamed.done, said.body[-200:]
        return streamed

    async def chat(self, text: str, **fields: object) -> dict[str, Any]:
        """The whole answer to one user's message."""
        said = await self.ask("chat/completions", messages=user(text), **fields)
        return said.good

    async def chat_stream(self, text: str, **fields: object) -> Streamed:
        """The streamed answer to one user's message."""
        return await self.stream("chat/completions", messages=user(text), **fields)


def user(text: str) -> list[dict[str, str]]:
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


def content(answer: Mapping[str, Any], index: int = 0) -> str:
    """The text of a chat answer's choice."""
    text = answer["choices"][index]["message"]["content"]
    assert isinstance(text, str), answer
    return text

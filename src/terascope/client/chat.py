"""A chat's answer while it is made."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

import httpx
import orjson

from terascope.client.errors import error_of, told
from terascope.core.errors import EngineError, GatewayUnreachable
from terascope.protocol.sse import event_data, split_events

CHAT = "/v1/chat/completions"
Message = Mapping[str, Any]


def chat_body(model: str, messages: Sequence[Message], fields: Mapping[str, Any]) -> bytes:
    """The body of a streaming chat request; `fields` are further fields of the API."""
    asked = {"stream_options": {"include_usage": True}, **fields}
    return orjson.dumps(asked | {"model": model, "messages": [*messages], "stream": True})


class Heard:
    """What came of an answer so far: the first choice's `text`, its `finish_reason`, and at the end `usage`."""

    def __init__(self) -> None:
        self.text = ""
        self.model = ""
        self.finish_reason: str | None = None
        self.usage: dict[str, Any] | None = None
        self._rest = b""
        self._done = False

    def feed(self, data: bytes) -> Iterator[str]:
        """Take bytes as they came, cut anywhere; yield the new pieces of text. Raises what an error event says."""
        self._rest += data
        for one in split_events(self._rest):
            self._rest = self._rest[len(one) :]
            payload = event_data(one)
            if payload == b"[DONE]":
                self._done = True
            elif payload:
                yield from self._read(_event(payload))

    def end(self) -> None:
        """To be called when the stream has ended: raises `GatewayUnreachable` when it did not say so itself."""
        if not self._done:
            raise GatewayUnreachable("the answer broke off before its end; what came is incomplete, ask again")

    def _read(self, event: dict[str, Any]) -> Iterator[str]:
        if error := event.get("error"):
            raise error_of(error if isinstance(error, dict) else {"message": str(error)})
        self.model = event.get("model") or self.model
        self.usage = event.get("usage") or self.usage
        for choice in event.get("choices") or ():
            if choice.get("index", 0) == 0:
                self.finish_reason = choice.get("finish_reason") or self.finish_reason
                if piece := (choice.get("delta") or {}).get("content"):
                    self.text += piece
                    yield piece


def _event(payload: bytes) -> dict[str, Any]:
    try:
        event = orjson.loads(payload)
    except orjson.JSONDecodeError:
        event = None
    if not isinstance(event, dict):
        raise EngineError("the engine sent an event that is no JSON object; what came is incomplete, ask again")
    return event


class _Stream:
    """What both streams know of their answer."""

    def __init__(self, response: httpx.Response, url: str) -> None:
        self._response = response
        self._url = url
        self._heard = Heard()

    @property
    def text(self) -> str:
        """The text so far."""
        return self._heard.text

    @property
    def finish_reason(self) -> str | None:
        """Why the answer ended: `stop`, `length`, ...; None before its end."""
        return self._heard.finish_reason

    @property
    def usage(self) -> dict[str, Any] | None:
        """Tokens used, in OpenAI's words; None before the end."""
        return self._heard.usage

    @property
    def model(self) -> str:
        """`name@version` that answers."""
        return self._heard.model

    @property
    def request_id(self) -> str:
        """The id under which the gateway keeps the run record."""
        return str(self._response.headers.get("x-request-id", ""))


class ChatStream(_Stream):
    """An answer that comes piece by piece; iterate it once.

    Iterating raises the `ServiceError` in which an answer ends that is not whole; `text` keeps what came.
    """

    def __iter__(self) -> Iterator[str]:
        with told(self._url):
            for data in self._response.iter_bytes():
                yield from self._heard.feed(data)
        self._heard.end()


class AsyncChatStream(_Stream):
    """`ChatStream` for `async for`."""

    async def __aiter__(self) -> AsyncIterator[str]:
        with told(self._url):
            async for data in self._response.aiter_bytes():
                for piece in self._heard.feed(data):
                    yield piece
        self._heard.end()

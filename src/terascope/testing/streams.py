"""Streams as a client sees them while replicas die: whole, ended in an explicit error, or lost in silence."""

from collections.abc import Callable
from dataclasses import dataclass

import httpx
import orjson

from terascope.protocol.sse import event_data, split_events


@dataclass(frozen=True, slots=True)
class Stream:
    """What came of one streamed chat: the text, the code of its error, and whether it said `[DONE]`."""

    id: str
    text: str
    error: str
    done: bool

    def whole(self, text: str) -> bool:
        """Whether it is all of the answer `text`."""
        return self.done and not self.error and self.text.strip() == text

    def lost(self, text: str) -> bool:
        """Whether it is neither all of the answer nor ends in an error: what must never be."""
        return not self.whole(text) and (self.done or not self.error)


async def ask(http: httpx.AsyncClient, model: str, text: str, *, first: Callable[[], None] = lambda: None) -> Stream:
    """Ask `model`, an echo engine, to say `text`; `first` is called when the first part of it has come.

    A connection that breaks is a stream that was lost: nothing is raised.
    """
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": text}]}
    request_id, parts = "", b""
    try:
        async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            request_id = answer.headers.get("x-request-id", "")
            async for part in answer.aiter_raw():
                parts += part
                if b"content" in part:
                    first()
    except httpx.HTTPError:
        return Stream(request_id, "", "", done=False)
    return _read(request_id, parts)


def _read(request_id: str, body: bytes) -> Stream:
    if body.startswith(b"{"):
        return Stream(request_id, "", orjson.loads(body)["error"]["code"], done=False)
    payloads = [data for one in split_events(body) if (data := event_data(one))]
    events = [orjson.loads(data) for data in payloads if data != b"[DONE]"]
    error = next((one["error"]["code"] for one in events if "error" in one), "")
    choices = [choice for one in events for choice in one.get("choices", ())]
    said = "".join(choice["delta"].get("content") or "" for choice in choices)
    return Stream(request_id, said, error, done=payloads[-1:] == [b"[DONE]"])

"""Small pieces of ASGI (https://asgi.readthedocs.io, HTTP 2.5): reading a body, writing an answer."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from terascope.core.errors import BodyTooLarge, InvalidToken, MethodNotAllowed, ServiceError
from terascope.inference.reply import Header
from terascope.protocol.errors import error_body
from terascope.protocol.sse import event

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


_HEADERS = "terascope.headers"


class ClientLeft(asyncio.CancelledError):
    """The client closed the connection before it had sent its request."""


def header(scope: Scope, name: bytes, default: str = "") -> str:
    """The first header called `name` (lower case), `default` when there is none."""
    headers = scope.get(_HEADERS)
    if headers is None:  # a request is asked for several
        headers = scope[_HEADERS] = dict(reversed(scope["headers"]))
    return str(headers[name].decode("latin-1")) if name in headers else default


async def read_body(scope: Scope, receive: Receive, *, most: int) -> bytes:
    """Return the request's body.

    Raises `BodyTooLarge` as soon as it is known to be over `most` bytes, and `ClientLeft` when the client left or
    the server lost patience with it (`gateway/server.py`).
    """
    length = header(scope, b"content-length")
    if length.isdecimal() and int(length) > most:
        raise _too_large(most)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise _too_large(most)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives `body`, which was read already, and then whatever `receive` gives."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again


def named(send: Send, request_id: str) -> Send:
    """A `send` that puts the request's id into the headers."""

    async def with_id(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
        await send(message)

    return with_id


def _too_large(most: int) -> BodyTooLarge:
    return BodyTooLarge(f"the request's body is larger than {most} bytes, the most this server takes")


class HttpReply:
    """Sends one answer over ASGI; the `Reply` of the gateway."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.begun = False
        self.ended = False
        self.gone = False

    async def begin(self, status: int, headers: list[Header]) -> None:
        self.begun = True
        headers.append((b"x-request-id", self._request_id.encode()))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes) -> None:
        self.ended = True
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def fail(self, error: ServiceError) -> None:
        """Tell `error`: as a whole answer, or as the last event when the answer has begun. Never `[DONE]`.

        Nothing can be told after the answer's end.
        """
        if self.ended:
            return
        body = error_body(error, self._request_id)
        if self.begun:
            await self.end(event(body))
            return
        await self.begin(error.status, [*error_headers(error), (b"content-length", str(len(body)).encode())])
        await self.end(body)


def error_headers(error: ServiceError) -> Iterable[Header]:
    """The headers that go with `error`."""
    yield b"content-type", b"application/json"
    if error.retry_after is not None:
        yield b"retry-after", str(max(1, round(error.retry_after))).encode()
    for name, value in error.headers.items():
        yield name.encode(), value.encode()
    if error.status == 401:
        yield b"www-authenticate", b'Bearer error="invalid_token"' if isinstance(error, InvalidToken) else b"Bearer"
    if isinstance(error, MethodNotAllowed):
        yield b"allow", error.allow.encode()


_WHEN_GONE = "terascope.when_gone"


def when_client_leaves(scope: Scope, call: Callable[[], None]) -> None:
    """Have `call` called when the client closes the connection before it has the whole answer.

    The server (`gateway/server.py`) tells; a task that waits on `receive` would cost every request one.
    """
    scope[_WHEN_GONE] = call


def forget_client(scope: Scope) -> None:
    """The request is over: nothing is to be called any more when the client leaves.

    What would be called knows the answer, and that knows the scope: only the garbage collector would find the two, and
    until then each request takes memory that no cache holds yet.
    """
    scope.pop(_WHEN_GONE, None)


def client_left(scope: Scope) -> None:
    """The connection of the request behind `scope` is gone."""
    if call := scope.get(_WHEN_GONE):
        call()

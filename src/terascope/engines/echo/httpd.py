"""A small HTTP/1.1 server for programs that stand in for engines: every byte of an answer is the handler's to choose.

It is not for strangers: it knows no limits on time, and only the gateway or a test talks to it.
"""

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httptools

_MOST_BODY = 256 << 20  # bytes
_BACKLOG = 4096  # connections that may wait to be accepted
_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 405: "Method Not Allowed"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """One request; header names in lower case, `path` without the query."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = field(repr=False)


class Exchange:
    """One request and the means to answer it. Sending raises `ConnectionError` once the client is gone."""

    def __init__(self, request: Request, connection: "_Connection") -> None:
        self.request = request
        self.keep = True
        """Whether the connection may carry another request after this one."""
        self.sent = False
        """Whether anything of the answer has been sent."""
        self._connection = connection

    async def raw(self, data: bytes) -> None:
        """Send `data` as it is; waits while the client reads slowly."""
        self.sent = True
        await self._connection.write(data)

    async def reply(
        self, status: int, body: bytes, kind: str = "application/json", headers: Iterable[tuple[str, str]] = ()
    ) -> None:
        """Send a whole answer."""
        await self.raw(head(status, (("Content-Type", kind), ("Content-Length", str(len(body))), *headers)) + body)

    async def begin(self, status: int, kind: str, headers: Iterable[tuple[str, str]] = ()) -> None:
        """Begin an answer whose body comes in chunks."""
        await self.raw(head(status, (("Content-Type", kind), ("Transfer-Encoding", "chunked"), *headers)))

    async def chunk(self, data: bytes) -> None:
        """Send a part of the body; `data` is not empty."""
        await self.raw(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> None:
        """End a body that came in chunks."""
        await self.raw(b"0\r\n\r\n")

    def close(self) -> None:
        """Close the connection when all that was sent is out."""
        self._connection.close()

    def reset(self) -> None:
        """Close the connection now, over TCP with a reset."""
        self._connection.reset()


Handler = Callable[[Exchange], Awaitable[None]]


def head(status: int, headers: Iterable[tuple[str, str]]) -> bytes:
    """Status line and headers as bytes."""
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, '')}", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class _Connection(asyncio.Protocol):
    """One client: its requests are answered one after the other; when it leaves, the handler is cancelled."""

    def __init__(self, server: "HttpServer") -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiting: list[Request] = []
        self._task: asyncio.Task[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._writable = True
        self._begin()

    def _begin(self) -> None:
        self._path = b""
        self._fields: dict[str, str] = {}
        self._body = bytearray()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream transport, since this is a stream protocol
        self._server.connections.add(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse(400)

    def eof_received(self) -> None:
        """A client that says no more is gone: the transport closes next."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._writable = True
        self._wake()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._wake()

    def _wake(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # httptools

    def on_message_begin(self) -> None:
        self._begin()

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields[name.decode("latin-1").lower()] = value.decode("latin-1").strip()

    def on_headers_complete(self) -> None:
        if self._fields.get("expect", "").lower() == "100-continue" and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        if len(self._body) + len(data) > _MOST_BODY:
            self._refuse(413)
        else:
            self._body += data

    def on_message_complete(self) -> None:
        path = self._path.partition(b"?")[0].decode("latin-1")
        method = self._parser.get_method().decode("latin-1")
        self._waiting.append(Request(method, path, self._fields, bytes(self._body)))
        if self._task is None and not self.closed:
            self._task = asyncio.get_running_loop().create_task(self._answer_all())

    # answering

    async def _answer_all(self) -> None:
        while self._waiting and not self.closed:
            exchange = Exchange(self._waiting.pop(0), self)
            keep = exchange.request.headers.get("connection", "").lower() != "close"
            with suppress(ConnectionError):
                await self._answer(exchange)
            if not (exchange.keep and keep):
                self.close()
        self._task = None

    async def _answer(self, exchange: Exchange) -> None:
        try:
            await self._server.handler(exchange)
        except ConnectionError:
            raise
        except Exception:  # noqa: BLE001 - a request's edge: one that fails must not end the program
            _log.exception("a request failed")
            exchange.keep = False
            if not exchange.sent:
                await exchange.reply(500, b'{"error":{"message":"the engine failed","type":"server_error"}}')

    @property
    def closed(self) -> bool:
        """True once nothing can be sent."""
        return self._transport is None or self._transport.is_closing()

    async def write(self, data: bytes) -> None:
        if self.closed or self._transport is None:
            raise ConnectionResetError("the client is gone")
        self._transport.write(data)
        while not self._writable:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained
        if self.closed:
            raise ConnectionResetError("the client is gone")

    def _refuse(self, status: int) -> None:
        if self._transport is not None and not self.closed:
            self._transport.write(head(status, (("Content-Length", "0"), ("Connection", "close"))))
            self._transport.close()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def reset(self) -> None:
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()

    async def ended(self) -> None:
        """Return when the handler has ended."""
        if self._task is not None:
            await asyncio.wait((self._task,))


class HttpServer:
    """Listens on a Unix socket or a port until closed."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.connections: set[_Connection] = set()
        self.url = ""
        """Where it listens: `unix:/path` or `http://host:port`."""
        self._server: asyncio.Server | None = None
        self._path: Path | None = None

    async def listen(self, *, path: Path | None = None, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen on the Unix socket `path` (mode 0600), else on `host` and `port` (0: any free one)."""
        loop = asyncio.get_running_loop()
        if path is not None:
            sock, self._path, self.url = _bind_unix(path), path, f"unix:{path}"
            self._server = await loop.create_unix_server(lambda: _Connection(self), sock=sock, backlog=_BACKLOG)
        else:
            self._server = await loop.create_server(lambda: _Connection(self), host, port, backlog=_BACKLOG)
            bound = self._server.sockets[0].getsockname()
            self.url = f"http://[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"http://{bound[0]}:{bound[1]}"

    async def aclose(self) -> None:
        """Stop listening and cut what runs. Idempotent."""
        if self._server is None:
            return
        self._server.close()
        for connection in tuple(self.connections):
            connection.abort()
            await connection.ended()
        await self._server.wait_closed()
        self._server = None
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _bind_unix(path: Path) -> socket.socket:
    """A socket at `path` that only this user can reach, from the first moment on."""
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        sock.bind(str(path))
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(before)
    return sock

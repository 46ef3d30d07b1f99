"""HTTP/1.1 from the client's side: one connection, and the answers that come over it.

Bytes go from the socket through httptools to whoever iterates the answer; there is no task, queue or timer per
answer and no future except while something must be waited for. Why it is our own:
docs/decisions/0003-own-upstream-client.md.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Protocol

import httptools

from terascope.core.errors import EngineError, EngineLost, EngineUnreachable, ServiceError
from terascope.engines.contract import Headers

_MOST_HEAD = 64 * 1024  # bytes of status line and headers, 1xx answers included
_MOST_HELD = 256 * 1024  # bytes of an answer held for a slow consumer before reading stops
_PIECE = 256 * 1024  # bytes of a request body handed to the transport at a time

_Waiter = asyncio.Future[None]


class Pool(Protocol):
    """Who is told what becomes of a connection."""

    def keep(self, connection: "Connection") -> None:
        """The connection is free for another request."""
        ...

    def forget(self, connection: "Connection") -> None:
        """The connection is gone."""
        ...


class HttpAnswer:
    """One answer, from its headers on: `contract.EngineAnswer` over a connection."""

    __slots__ = ("_connection", "_ended", "_error", "_fields", "_held", "_parts", "_waiter", "headers", "status")

    def __init__(self, connection: "Connection") -> None:
        self.status = 0  # 0 until all headers are there
        self.headers = Headers()
        self._connection: Connection | None = connection  # None once the connection is free of this answer
        self._fields: list[tuple[bytes, bytes]] = []
        self._parts: list[bytes] = []
        self._held = 0
        self._ended = False
        self._error: ServiceError | None = None
        self._waiter: _Waiter | None = None

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body: each time all that has come since the last look, in one piece."""
        return self

    def __aiter__(self) -> "HttpAnswer":
        return self

    async def __anext__(self) -> bytes:
        while not self._parts:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            await self.wait()
        parts = self._parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self._held = 0
        if self._connection is not None:
            self._connection.resume()
        return data

    async def read(self, most: int) -> bytes:
        """Return the whole body; raises `EngineError` when it is over `most` bytes, and what iterating raises."""
        body = bytearray()
        async for chunk in self:
            body += chunk
            if len(body) > most:
                await self.aclose()
                raise EngineError("the engine's answer is longer than it can rightly be")
        return bytes(body)

    async def aclose(self) -> None:
        self.cut(EngineLost("the answer was closed before its end"))

    async def wait(self) -> None:
        """Return when something may have changed. On cancellation the answer is cut."""
        connection = self._connection
        if connection is None:
            return
        self._waiter = connection.loop.create_future()
        try:
            await self._waiter
        except BaseException:
            await self.aclose()
            raise
        finally:
            self._waiter = None

    # what the connection calls

    @property
    def open(self) -> bool:
        """True while more may come."""
        return not self._ended and self._error is None

    def field(self, name: bytes, value: bytes) -> None:
        if not self.status:  # fields after that are trailers
            self._fields.append((name, value))

    def headed(self, status: int) -> None:
        """All headers are there; those of an interim answer (1xx) are not ours."""
        if status >= 200:
            for raw_name, raw_value in self._fields:
                name, value = raw_name.decode("latin-1").lower(), raw_value.strip().decode("latin-1")
                self.headers[name] = f"{self.headers[name]}, {value}" if name in self.headers else value
            self.status = status
        self._fields.clear()

    def part(self, data: bytes) -> int:
        """Take a part of the body; return how many bytes wait for the consumer."""
        self._parts.append(data)
        self._held += len(data)
        return self._held

    def end(self) -> None:
        """The body ended properly, and the connection has nothing more for this answer."""
        self._ended = True
        self._connection = None
        self.wake()

    def fail(self, error: ServiceError) -> None:
        """There will be no more; what came is still handed out, then `error` is raised."""
        if self.open:
            self._error = error
        self._connection = None
        self.wake()

    def cut(self, error: ServiceError) -> None:
        """Close the connection at once if the answer is unfinished."""
        connection = self._connection
        self.fail(error)
        if connection is not None:
            connection.abort()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def raise_error(self) -> None:
        """Raise why there is no answer, if there is none."""
        if self._error is not None:
            raise self._error


class Connection(asyncio.Protocol):
    """One connection: carries one request at a time, then goes back to the pool."""

    def __init__(self, pool: Pool) -> None:
        self.loop = asyncio.get_running_loop()
        self.gone: _Waiter = self.loop.create_future()
        self.idle_since = 0.0
        self.heard = False  # anything at all of the answer has come
        self._pool = pool
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._answer: HttpAnswer | None = None
        self._head = 0
        self._keep = self._complete = self._unsent = self._paused = self._until_close = False
        self._writable = True

    @property
    def usable(self) -> bool:
        """True when a request can be sent, as far as is known here."""
        return self._transport is not None and not self._transport.is_closing()

    async def send(self, head: bytes, body: bytes) -> HttpAnswer:
        """Send a request; return its answer once all headers are there.

        Raises `EngineUnreachable` or `EngineError` when none begins. On cancellation the connection is closed.
        """
        transport = self._transport
        assert transport is not None  # noqa: S101 - connection_made comes before anyone has the connection
        self._answer = answer = HttpAnswer(self)
        self._head, self._complete, self.heard = 0, False, False
        if len(body) <= _PIECE:
            transport.write(head + body)
        else:
            transport.write(head)
            await self._send_large(transport, answer, body)
        while not answer.status and answer.open:
            await answer.wait()
        if not answer.status:
            answer.raise_error()
        return answer

    async def _send_large(self, transport: asyncio.Transport, answer: HttpAnswer, body: bytes) -> None:
        """Write no faster than the engine reads; stop when it answers before it has all."""
        self._unsent = True
        for at in range(0, len(body), _PIECE):
            while not self._writable and answer.open and not answer.status:
                await answer.wait()
            if answer.status or not answer.open or transport.is_closing():
                return
            transport.write(body[at : at + _PIECE])
        self._unsent = False

    def resume(self) -> None:
        """The consumer has taken what was held."""
        if self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close now, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream transport, since this is a stream protocol
        if (sock := transport.get_extra_info("socket")) is not None:
            _watch_peer(sock)

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None:  # nothing was asked: a timeout's 408, or a confused server
            return self.abort()
        self.heard = True
        try:
            self._parser.feed_data(data)
            if not answer.status:
                self._head += len(data)
                if self._head > _MOST_HEAD:
                    raise ValueError("headers are too long")
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, ValueError) as error:
            return self._malformed(answer, error)
        if self._complete:
            self._release(answer)
        elif answer.status:
            answer.wake()
        return None

    def eof_received(self) -> None:
        """The transport closes next, and `connection_lost` says what that means."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.forget(self)
        answer, self._answer = self._answer, None
        if answer is not None and answer.open:
            self._cut_short(answer, exc)
        if not self.gone.done():
            self.gone.set_result(None)

    def _cut_short(self, answer: HttpAnswer, exc: Exception | None) -> None:
        detail = repr(exc) if exc else "end of file"
        told = str(exc) if isinstance(exc, ConnectionAbortedError) and not exc.errno else ""  # by a tunnel's other end
        if not answer.status:
            told = told or "the engine closed the connection before it answered"
            answer.fail(EngineUnreachable(told, detail=detail))
        elif self._until_close and exc is None:
            answer.end()
        else:
            words = "the connection to the engine was lost in mid-answer"
            answer.fail(EngineLost(f"{words}: {told}" if told else words, detail=detail))

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        if self._answer is not None:
            self._answer.wake()

    # httptools

    def on_message_begin(self) -> None:
        if self._complete:
            raise ValueError("a second answer to one request")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._answer is not None:
            self._answer.field(name, value)

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status == 101:
            raise ValueError("an upgrade that was not asked for")
        if self._answer is not None:
            self._answer.headed(status)
            self._keep = self._parser.should_keep_alive()
            self._until_close = not self._keep and self._announced_close(self._answer.headers)

    def _announced_close(self, headers: Headers) -> bool:
        """Whether the end of the connection is a proper end of this body, which has no other mark of its end."""
        if "content-length" in headers or headers.get("transfer-encoding", "").lower().endswith("chunked"):
            return False
        tokens = headers.get("connection", "").lower().replace(" ", "").split(",")
        return self._parser.get_http_version() == "1.0" or "close" in tokens

    def on_body(self, data: bytes) -> None:
        if self._answer is not None and self._answer.part(data) > _MOST_HELD and not self._paused:
            self._paused = True
            if self._transport is not None:
                self._transport.pause_reading()

    def on_message_complete(self) -> None:
        self._complete = self._answer is not None and self._answer.status > 0

    # the end of an answer

    def _malformed(self, answer: HttpAnswer, error: Exception) -> None:
        self._answer = None
        reason = repr(error.__context__ or error)
        if self._complete:
            answer.end()  # what came after a whole answer is not part of it
        elif answer.status:
            answer.fail(EngineLost("the engine's answer broke off in bytes that are not HTTP", detail=reason))
        else:
            answer.fail(EngineError("the engine's answer is not HTTP", detail=reason))
        self.abort()

    def _release(self, answer: HttpAnswer) -> None:
        transport = self._transport
        self._answer = None
        if transport is None or not self._keep or self._unsent or transport.get_write_buffer_size():
            self.abort()
        else:
            self.resume()
            self._pool.keep(self)
        answer.end()


def _watch_peer(sock: socket.socket) -> None:
    """Have the kernel notice a machine that vanished: an answer may rightly be silent for longer than that takes."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, option):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

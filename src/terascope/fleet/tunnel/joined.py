"""The agent's side of streams: joined to a connection to the engine, or fed from its log."""

import asyncio
from collections.abc import AsyncIterator

from terascope.fleet.tunnel.session import Stream

_HIGH = 256 * 1024  # bytes of a stream that wait to go out before no more is read for it


class Joined(asyncio.Protocol):
    """Copies both ways between `stream` and the connection to the engine; when either is gone, so is the other."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._transport: asyncio.Transport | None = None
        self._early: list[bytes] = []  # what came before there was a connection; a window at most
        self._untaken = 0  # bytes that the engine has not read yet
        self._writable = True
        self._over = False
        stream.consumer = self

    # asyncio.Protocol: the engine

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a stream transport, since this is its protocol
        self._transport = transport
        if self._over:
            transport.abort()
            return
        early, self._early = self._early, []
        for data in early:
            self.data(data)

    def data_received(self, data: bytes) -> None:
        self._stream.write(data)
        if self._stream.held > _HIGH and self._transport:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        self._stream.end()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None:
            self._stream.end()
        elif not self._over:
            self._stream.reset(f"the connection to the engine broke: {exc}")
        self._over = True

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._stream.taken(self._untaken)
        self._untaken = 0

    # session.Consumer: the gateway

    def data(self, data: bytes) -> None:
        if self._transport is None:
            self._early.append(data)
            return
        self._transport.write(data)
        if self._writable:
            self._stream.taken(len(data))
        else:
            self._untaken += len(data)

    def ended(self) -> None:
        self._over = True
        self._stream.end()
        if self._transport:
            self._transport.close()

    def lost(self, reason: str) -> None:
        self._over = True
        if self._transport:
            self._transport.abort()

    def drained(self) -> None:
        if self._transport and not self._transport.is_closing():
            self._transport.resume_reading()


class LogFeed:
    """Feeds `stream` with pieces of a log, no faster than they are read, until there are no more or it is lost."""

    def __init__(self, stream: Stream, pieces: AsyncIterator[bytes]) -> None:
        self._stream = stream
        self._pieces = pieces
        self._room = asyncio.Event()
        self._feeding: asyncio.Task[None] | None = None
        stream.consumer = self

    async def run(self) -> None:
        """Return when the log or the stream has ended."""
        self._feeding = asyncio.create_task(self._feed())
        try:
            await asyncio.wait({self._feeding})
        finally:
            self._feeding.cancel()

    async def _feed(self) -> None:
        async for piece in self._pieces:
            self._stream.write(piece)
            while self._stream.held > _HIGH:
                self._room.clear()
                await self._room.wait()
        self._stream.end()

    def data(self, data: bytes) -> None:
        self._stream.taken(len(data))

    def ended(self) -> None:
        self.lost("")
        self._stream.end()

    def lost(self, reason: str) -> None:
        if self._feeding:
            self._feeding.cancel()

    def drained(self) -> None:
        self._room.set()

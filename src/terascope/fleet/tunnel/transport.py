"""A stream of a tunnel as a transport of asyncio, so that whatever speaks over a socket speaks through it as well."""

import asyncio
from collections import deque
from typing import Any

from terascope.fleet.tunnel.session import Stream

_HIGH = 256 * 1024  # bytes that wait to go out before the protocol is asked to pause


class StreamTransport(asyncio.Transport):
    """What a protocol writes goes into `stream`; what comes is handed to it, or kept while it does not read."""

    def __init__(self, stream: Stream, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._stream = stream
        self._protocol = protocol
        self._kept: deque[bytes] = deque()
        self._reading = True
        self._heard_end = False
        self._full = False
        self._closing = False
        stream.consumer = self
        protocol.connection_made(self)

    # asyncio.Transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing:
            return
        self._stream.write(bytes(data))
        if self._stream.held > _HIGH and not self._full:
            self._full = True
            self._protocol.pause_writing()

    def write_eof(self) -> None:
        self._stream.end()

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return self._stream.held

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return self._reading

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        self._hand_over()

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)  # noqa: S101 - nothing else can be handed bytes
        self._protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def close(self) -> None:
        """Send what waits, then end; the protocol hears nothing more but that the connection is gone."""
        if not self._closing:
            self._stream.end()
            self._stream.consumer = None  # what still comes is dropped
            self._gone(None)

    def abort(self) -> None:
        if not self._closing:
            self._stream.reset("it is not wanted any more")
            self._gone(None)

    # session.Consumer

    def data(self, data: bytes) -> None:
        self._kept.append(data)
        self._hand_over()

    def ended(self) -> None:
        self._heard_end = True
        self._hand_over()

    def lost(self, reason: str) -> None:
        while self._kept and not self._closing:
            self._protocol.data_received(self._kept.popleft())
        self._gone(ConnectionAbortedError(reason))

    def drained(self) -> None:
        if self._full:
            self._full = False
            self._protocol.resume_writing()

    def _hand_over(self) -> None:
        while self._kept and self._reading and not self._closing:
            data = self._kept.popleft()
            self._protocol.data_received(data)
            self._stream.taken(len(data))
        if self._heard_end and not self._kept and not self._closing:
            self._heard_end = False
            if not self._protocol.eof_received():
                self.close()

    def _gone(self, error: Exception | None) -> None:
        if not self._closing:
            self._closing = True
            self._kept.clear()
            self._loop.call_soon(self._protocol.connection_lost, error)

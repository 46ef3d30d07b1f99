"""A transport in memory: a protocol is fed by hand, byte by byte if need be, and what it writes is kept."""

import asyncio
from typing import Any


class MemoryTransport(asyncio.Transport):
    """Carries nothing: `feed` and `hang_up` play the other side, `written` is what it would have received."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.written = bytearray()
        self.reading = True
        self._protocol = protocol
        self._closing = False
        protocol.connection_made(self)

    def feed(self, data: bytes) -> None:
        """Let the protocol receive `data`, unless it has closed the transport."""
        if not self._closing:
            self._protocol.data_received(data)

    def hang_up(self, error: Exception | None = None) -> None:
        """Let the other side be gone, with `error` or properly."""
        if not self._closing:
            self._closing = True
            if error is None:
                self._protocol.eof_received()
            self._protocol.connection_lost(error)

    # asyncio.Transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return self._closing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

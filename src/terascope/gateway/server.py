"""The HTTP server: uvicorn, with patience for slow clients that has an end."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from terascope.core.config import ServerConfig
from terascope.core.errors import BadRequest, RequestTimeout, ServiceError
from terascope.core.ids import new_id
from terascope.gateway.app import Gateway
from terascope.protocol.errors import error_body

_MOST_HEADER_BYTES = 64 * 1024


class Server(uvicorn.Server):
    """uvicorn's server, which leaves signals to its caller."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        """Take no more requests and end when the running ones have; at once when called twice."""
        self.force_exit = self.should_exit
        self.should_exit = True


def server(gateway: Gateway, config: ServerConfig) -> Server:
    """A server for `gateway`, not yet started."""
    return Server(
        uvicorn.Config(
            gateway,
            host=config.host,
            port=config.port,
            root_path=config.root_path,
            loop="uvloop",
            http=type("_Protocol", (_PatientProtocol,), {"request_timeout_s": config.request_timeout_s}),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=max(1, round(config.drain_s)),
            backlog=4096,
        )
    )


class _PatientProtocol(HttpToolsProtocol):
    """Closes connections whose request headers come too slowly or never end, which uvicorn does not."""

    request_timeout_s = 60.0
    _timer: asyncio.TimerHandle | None = None
    _header_bytes = 0
    _in_headers = True

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_headers:
            self._header_bytes += len(data)
            if self._header_bytes > _MOST_HEADER_BYTES:
                self._refuse(_status(BadRequest(f"more than {_MOST_HEADER_BYTES} bytes of headers"), 431))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._await_headers()

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._stop_timer()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(BadRequest(f"this is not HTTP/1.1: {msg}"))

    def _await_headers(self) -> None:
        self._stop_timer()
        self._in_headers = True
        self._header_bytes = 0
        self._timer = self.loop.call_later(self.request_timeout_s, self._too_slow)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._refuse(RequestTimeout(f"no whole request came within {self.request_timeout_s:g} s"))

    def _refuse(self, error: ServiceError) -> None:
        """Answer on the bare connection, where no request exists yet, and close it."""
        self._stop_timer()
        if self.transport.is_closing():
            return
        body = error_body(error, new_id("req"))
        head = f"HTTP/1.1 {error.status} {error.code}\r\ncontent-type: application/json\r\n"
        self.transport.write(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
        self.transport.close()


def _status(error: ServiceError, status: int) -> ServiceError:
    error.status = status
    return error

"""The HTTP server: uvicorn, with patience for slow clients that has an end."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from terascope.core.config import ServerConfig
from terascope.core.errors import BadRequest, RequestTimeout, ServiceError
from terascope.core.ids import new_id
from terascope.fleet.tunnel.frames import MOST_MESSAGE
from terascope.gateway.app import Gateway
from terascope.gateway.asgi import client_left
from terascope.protocol.errors import error_body

_MOST_HEADER_BYTES = 64 * 1024
_ALIVE_S = 10.0  # between two pings of an agent, and how long it may take to answer one
BACKLOG = 4096  # connections that may wait to be accepted


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
            ws=_TunnelProtocol,
            ws_max_size=MOST_MESSAGE,
            ws_ping_interval=_ALIVE_S,
            ws_ping_timeout=_ALIVE_S,
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nothing here depends on the client's address
            timeout_keep_alive=75,
            timeout_graceful_shutdown=max(1, round(config.drain_s)),
            backlog=BACKLOG,
        )
    )


class _TunnelProtocol(WebSocketsSansIOProtocol):
    """A WebSocket that stays while the server ends: the answers that are still running may come through it.

    The fleet closes tunnels when it closes, which is after the last answer.
    """

    _running: asyncio.Task[Any] | None = None

    def shutdown(self) -> None:
        if self._running is None or not self.handshake_complete:
            super().shutdown()
            return
        self.connections.discard(self)  # nor is it waited for
        self.tasks.discard(self._running)

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections.add(self)  # it is removed there, and may have been in `shutdown` already
        super().connection_lost(exc)

    async def run_asgi(self) -> None:
        self._running = asyncio.current_task()
        await super().run_asgi()


class _PatientProtocol(HttpToolsProtocol):
    """Closes connections whose requests come too slowly or whose headers never end, which uvicorn does not.

    One timer per request: its headers, and then each further part of its body, must come within
    `request_timeout_s` of what came before.
    """

    request_timeout_s = 60.0
    _timer: asyncio.TimerHandle | None = None
    _heard = 0.0
    _header_bytes = 0
    _in_headers = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)
        cycle: Any = self.cycle  # None before the first request, whatever uvicorn's own type says
        if cycle is not None and not cycle.response_complete:
            client_left(cycle.scope)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_headers:
            self._header_bytes += len(data)
            if self._header_bytes > _MOST_HEADER_BYTES:
                self._refuse(_status(BadRequest(f"more than {_MOST_HEADER_BYTES} bytes of headers"), 431))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers = True
        self._header_bytes = 0
        if self._timer is None:
            self._await_request()

    def handle_websocket_upgrade(self) -> None:
        self._stop_timer()
        super().handle_websocket_upgrade()

    def on_headers_complete(self) -> None:
        self._in_headers = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._heard = self.loop.time()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._stop_timer()
        super().on_message_complete()
        if not self.pipeline:  # a large body had stopped the reading: the client's leaving would not be heard
            self.flow.resume_reading()

    def send_400_response(self, msg: str) -> None:
        self._refuse(BadRequest(f"this is not HTTP/1.1: {msg}"))

    def _await_request(self) -> None:
        self._heard = self.loop.time()
        self._timer = self.loop.call_later(self.request_timeout_s, self._look)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """The time is over, unless a part of the body came meanwhile or the client waits for us to read it."""
        left = self._heard + self.request_timeout_s - self.loop.time()
        if left > 0 or self.flow.read_paused:
            self._timer = self.loop.call_later(left if left > 0 else self.request_timeout_s, self._look)
        else:
            self._refuse(RequestTimeout(f"nothing of the request came for {self.request_timeout_s:g} s"))

    def _refuse(self, error: ServiceError) -> None:
        """Answer on the bare connection, where no request exists yet, and close it."""
        self._stop_timer()
        if self.transport.is_closing():
            return
        cycle: Any = self.cycle
        if cycle is not None and cycle.response_started and not cycle.response_complete:
            self.transport.close()  # an answer is under way: nothing can be put between
            return
        body = error_body(error, new_id("req"))
        head = f"HTTP/1.1 {error.status} {error.code}\r\ncontent-type: application/json\r\n"
        self.transport.write(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
        self.transport.close()


def _status(error: ServiceError, status: int) -> ServiceError:
    error.status = status
    return error

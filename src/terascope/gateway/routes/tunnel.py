"""`/agent/v1/tunnel`: the WebSocket at which the agents of replicas dial in."""

import logging
from urllib.parse import parse_qs

from terascope.core.errors import NotFound, ServiceError
from terascope.core.ids import new_id
from terascope.fleet.tunnel.gate import Gate
from terascope.gateway.asgi import Receive, Scope, Send, error_headers, header
from terascope.protocol.errors import error_body

PATH = "/agent/v1/tunnel"

log = logging.getLogger(__name__)


class TunnelRoute:
    """Takes WebSockets; those of agents that show their token carry the tunnels of their replicas."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        try:
            if scope["path"].removeprefix(scope.get("root_path", "")) != PATH:
                raise NotFound(f"there is no WebSocket at {scope['path'][:200]}")
            deployment = parse_qs(scope["query_string"].decode("latin-1")).get("deployment", [""])[0]
            address = str((scope.get("client") or ("",))[0])
            end = await self._gate.admit(header(scope, b"authorization"), deployment, address)
        except ServiceError as error:
            await _refuse(send, error)
            return
        await send({"type": "websocket.accept"})
        channel = _Channel(receive, send)
        await end.serve(channel)
        await channel.close()


class _Channel:
    """`fleet.tunnel.link.Channel` over ASGI."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._open = True

    async def send(self, message: bytes) -> None:
        try:
            await self._send({"type": "websocket.send", "bytes": message})
        except OSError as error:
            raise ConnectionError(str(error)) from None

    async def receive(self) -> bytes:
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self._open = False
            raise ConnectionError("the agent has closed the connection")
        return message.get("bytes") or str(message.get("text") or "").encode()

    async def close(self) -> None:
        """Close the connection if it is open still."""
        if self._open:
            try:
                await self._send({"type": "websocket.close", "code": 1000})
            except OSError:
                log.info("the agent has gone already")


async def _refuse(send: Send, error: ServiceError) -> None:
    """Answer the request to open a WebSocket with an error, as any other request."""
    request_id = new_id("req")
    headers = [*error_headers(error), (b"x-request-id", request_id.encode())]
    await send({"type": "websocket.http.response.start", "status": error.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": error_body(error, request_id), "more_body": False})

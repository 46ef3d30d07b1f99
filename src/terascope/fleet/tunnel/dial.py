"""How an agent connects to its gateway: a WebSocket, with TLS and the token of its replica."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from terascope.core.errors import ConfigError, InvalidToken, NotAllowed
from terascope.core.urls import is_loopback, is_private
from terascope.fleet.tunnel.agent import Dial, Target
from terascope.fleet.tunnel.frames import MOST_MESSAGE
from terascope.fleet.tunnel.link import Channel

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

PATH = "/agent/v1/tunnel"
"""Of the gateway's route."""
_ALIVE_S = 10.0  # between two pings, and how long an answer to one may take


def tunnel_dial(gateway: str, deployment: str, token: str, *, ca: Path | None = None, plain: bool = False) -> Dial:
    """Return what connects to `gateway`, an http(s) URL, as the agent of `deployment`.

    `ca` holds the certificates to trust in place of the system's. Raises `ConfigError` when the URL is none, when the
    token would travel in the clear (unless `plain`), or when `ca` cannot be read.
    """
    parts = urlsplit(gateway)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(f"{gateway!r} is not the URL of a gateway; write https://host[:port][/prefix]")
    if not plain and not is_private(gateway):
        raise ConfigError("the token would travel in the clear; use https://, or --plain-http on a network you trust")
    if not token:
        raise ConfigError("there is no token; set TERASCOPE_AGENT_TOKEN, or name a file with --token-file")
    if not token.isascii() or not token.isprintable():
        raise ConfigError("the token holds characters that no token has")
    scheme = "wss" if parts.scheme == "https" else "ws"
    url = f"{scheme}://{parts.netloc}{parts.path.rstrip('/')}{PATH}?deployment={quote(deployment, safe='')}"
    tls = _trust(ca) if scheme == "wss" else None
    return lambda: _connected(url, token, tls)


def engine_target(engine: str, log: Path | None) -> Target:
    """Read `unix:/path` or `http://127.0.0.1:port`. Raises `ConfigError` for anything else: it must be here."""
    if engine.startswith("unix:/"):
        return Target(path=engine.removeprefix("unix:"), log=log)
    try:
        parts = urlsplit(engine)
        if parts.scheme == "http" and parts.hostname and parts.port and is_loopback(engine) and parts.path in ("", "/"):
            return Target(host=parts.hostname, port=parts.port, log=log)
    except ValueError:
        pass
    raise ConfigError(f"{engine!r} is not an engine of this machine; write unix:/path or http://127.0.0.1:PORT")


def _trust(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(ca) if ca else None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{ca} holds no certificates that can be read: {error.strerror or error}") from None


@asynccontextmanager
async def _connected(url: str, token: str, tls: ssl.SSLContext | None) -> AsyncIterator[Channel]:
    from websockets.asyncio.client import connect
    from websockets.exceptions import InvalidStatus, WebSocketException

    try:
        connection = await connect(
            url,
            additional_headers={"Authorization": f"Bearer {token}"},
            compression=None,  # tokens of a stream come one by one; the gateway's CPU is dearer than the bytes
            ssl=tls,
            proxy=None if is_loopback(url) else True,  # that of the environment, where a node has one
            max_size=MOST_MESSAGE,
            ping_interval=_ALIVE_S,
            ping_timeout=_ALIVE_S,
            close_timeout=1.0,
        )
    except InvalidStatus as error:
        raise _refusal(error.response.status_code) from None
    except (OSError, WebSocketException) as error:
        raise ConnectionError(str(error) or type(error).__name__) from None
    async with connection:
        yield _WebSocket(connection)


class _WebSocket:
    """`link.Channel` over the library's connection."""

    def __init__(self, connection: "ClientConnection") -> None:
        self._connection = connection

    async def send(self, message: bytes) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            await self._connection.send(message)
        except ConnectionClosed as error:
            raise ConnectionError(str(error)) from None

    async def receive(self) -> bytes:
        from websockets.exceptions import ConnectionClosed

        try:
            return await self._connection.recv(decode=False)
        except ConnectionClosed as error:
            raise ConnectionError(str(error)) from None


def _refusal(status: int) -> Exception:
    """401 and 403 stay as they are however often one tries; anything else may pass."""
    if status == 401:
        return InvalidToken("the gateway does not know this token: its replica has ended, or it was never one")
    if status == 403:
        return NotAllowed("this token is of another deployment")
    return ConnectionError(f"the gateway answered with status {status}")

"""Requests to engines over HTTP: an address, kept connections, and the adapter of every engine that has a server.

HTTP proxies, redirects, cookies and compression are not supported: an engine is reached directly.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import orjson

from terascope.core.errors import ConfigError, EngineError, EngineLost, EngineUnreachable
from terascope.engines.adapter_files import HEADER
from terascope.engines.contract import Dial, Endpoint, EngineAnswer, EngineCall, EngineInfo
from terascope.engines.http1 import Connection, HttpAnswer
from terascope.engines.info import read_info
from terascope.protocol.errors import engine_error

_MOST_IDLE = 512  # idle connections kept
_MOST_TOLD = 4 << 20  # bytes of an engine's answer about itself
_AT_ROOT = frozenset({"tokenize", "detokenize"})  # endpoints that are not below /v1, as vLLM has them


@dataclass(frozen=True, slots=True)
class Address:
    """Where requests go: a Unix socket (`path`), or a host and port, with TLS or without; `prefix` begins paths.

    Of a program on a node of a cluster, host and port are known only once it runs: they stand in the file `found_in`;
    or it is behind the `tunnel` of that name.
    """

    host: str
    port: int
    path: str = ""
    prefix: str = ""
    tls: bool = False
    found_in: str = ""
    tunnel: str = ""

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Read `unix:/path`, `at:/file`, `tunnel:NAME` or `http(s)://host[:port][/prefix]`.

        Raises `ConfigError` for anything else.
        """
        if url.startswith("tunnel:"):
            return cls("localhost", 0, tunnel=url.removeprefix("tunnel:"))
        if url.startswith("unix:/"):
            return cls("localhost", 0, path=url.removeprefix("unix:"))
        if url.startswith("at:/"):
            return cls("localhost", 0, found_in=url.removeprefix("at:"))
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"{url!r} is not a URL: {error}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{url!r} is not the URL of an engine; write unix:/path or http(s)://host:port[/prefix]")
        if parts.query or parts.fragment or parts.username is not None or not url.isascii() or " " in url:
            raise ConfigError(f"the URL of an engine is a scheme, a host, a port and a path, no more: {parts.hostname}")
        tls = parts.scheme == "https"
        return cls(parts.hostname, port or (443 if tls else 80), prefix=parts.path.rstrip("/"), tls=tls)

    @property
    def authority(self) -> str:
        """What the `Host` header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        bare = self.path or self.found_in or self.tunnel or self.port == (443 if self.tls else 80)
        return host if bare else f"{host}:{self.port}"


class HttpClient:
    """Sends requests to one address over kept connections. For one event loop; no limit on their number."""

    def __init__(
        self,
        url: str,
        *,
        headers: Iterable[tuple[str, str]] = (),
        connect_timeout_s: float = 10.0,
        idle_s: float = 60.0,
        tls: ssl.SSLContext | None = None,
        dial: Dial | None = None,
    ) -> None:
        """Connect to nothing yet; `headers` go with every request. Raises `ConfigError`.

        `dial` makes the connections, in place of what the URL says.
        """
        self._address = Address.parse(url)
        self._dial = dial
        fixed = [("Host", self._address.authority), ("Accept-Encoding", "identity"), *headers]
        self._headers = b"".join(_line(name, value) for name, value in fixed)
        self._connect_timeout_s = connect_timeout_s
        self._idle_s = idle_s
        self._tls = tls
        self._closed = False
        self._found: tuple[str, int] | None = None
        self._all: set[Connection] = set()
        self._idle: list[Connection] = []
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def closed(self) -> bool:
        """True once `aclose` has been called."""
        return self._closed

    async def request(
        self, method: str, path: str, body: bytes = b"", *, headers: Iterable[tuple[str, str]] = ()
    ) -> HttpAnswer:
        """Send a request; return its answer once all headers are there, whatever its status.

        `body` is JSON. Raises `EngineUnreachable` when no answer began and `EngineError` when what came is not
        HTTP. A request that found a kept connection closed by the other side is sent once more, on a new one.
        On cancellation the connection is closed.
        """
        head = self._request_head(method, path, len(body), headers)
        connection = self._take_idle()
        if connection is not None:
            try:
                return await connection.send(head, body)
            except EngineUnreachable:
                if connection.heard or self._closed:
                    raise
        connection = await self._connect()
        return await connection.send(head, body)

    async def aclose(self) -> None:
        """Close every connection; running answers raise `EngineLost`. Idempotent."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        connections = tuple(self._all)
        for connection in connections:
            connection.abort()
        for connection in connections:
            await connection.gone

    def keep(self, connection: Connection) -> None:
        """Take back a connection that is free."""
        if self._closed or len(self._idle) >= _MOST_IDLE or not connection.usable:
            return connection.abort()
        connection.idle_since = connection.loop.time()
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweeper = connection.loop.call_later(self._idle_s, self._sweep)
        return None

    def forget(self, connection: Connection) -> None:
        """A connection is gone."""
        self._all.discard(connection)
        with suppress(ValueError):
            self._idle.remove(connection)

    def _take_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()  # the youngest, so that the others can grow old
            if connection.usable:
                return connection
        return None

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweeper = None
        while self._idle and self._idle[0].idle_since <= loop.time() - self._idle_s:
            self._idle.pop(0).abort()
        if self._idle:
            self._sweeper = loop.call_at(self._idle[0].idle_since + self._idle_s, self._sweep)

    async def _connect(self) -> Connection:
        if self._closed:
            raise EngineUnreachable("the connection to the engine is closed")
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                connection = await self._open()
        except TimeoutError:
            raise EngineUnreachable(f"no connection to the engine within {self._connect_timeout_s:g} s") from None
        except FileNotFoundError:
            waits = (
                "its job waits in the queue" if self._address.found_in else "the engine has not opened its socket yet"
            )
            raise EngineUnreachable(waits) from None
        except (OSError, ValueError) as error:
            raise EngineUnreachable(f"no connection to the engine: {_reason(error)}", detail=repr(error)) from error
        if not self._admit(connection):
            raise EngineUnreachable("the connection to the engine was closed while it was made")
        return connection

    def _admit(self, connection: Connection) -> bool:
        """Take in a new connection; return whether it can be used.

        Not earlier: a connection whose making is cancelled may never be told of its end (uvloop).
        """
        if not connection.gone.done():
            self._all.add(connection)
        if self._closed:
            connection.abort()
        return connection.usable

    async def _open(self) -> Connection:
        loop, address = asyncio.get_running_loop(), self._address
        if self._dial is not None:
            return (await self._dial(lambda: Connection(self)))[1]
        if address.path:
            return (await loop.create_unix_connection(lambda: Connection(self), address.path))[1]
        if address.tls and self._tls is None:
            self._tls = ssl.create_default_context()
        host, port = await self._node() if address.found_in else (address.host, address.port)
        tls = self._tls if address.tls else None
        return (await loop.create_connection(lambda: Connection(self), host, port, ssl=tls))[1]

    async def _node(self) -> tuple[str, int]:
        """Where the program is, read once. A file system over the network may take its time."""
        if self._found is None:
            text = await asyncio.to_thread(Path(self._address.found_in).read_text)
            host, _, port = text.strip().rpartition(":")
            self._found = (host.strip("[]"), int(port))
        return self._found

    def _request_head(self, method: str, path: str, length: int, headers: Iterable[tuple[str, str]]) -> bytes:
        extra = b"".join([_line(name, value) for name, value in headers])
        if length or method == "POST":
            extra += b"Content-Type: application/json\r\nContent-Length: %d\r\n" % length
        return b"%b %b%b HTTP/1.1\r\n%b%b\r\n" % (
            method.encode(), self._address.prefix.encode(), path.encode(), self._headers, extra,
        )  # fmt: skip


def _line(name: str, value: str) -> bytes:
    """One header. Raises `ConfigError` when the value could be taken for more than one."""
    if not value.isprintable() or not value.isascii():
        raise ConfigError(f"the header {name} would hold characters that no header may hold")
    return b"%b: %b\r\n" % (name.encode(), value.encode())


def _reason(error: OSError | ValueError) -> str:
    """Why there is no connection, without the address, which is not for everyone."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, (ssl.SSLError, socket.gaierror)):
        return error.strerror or "TLS failed"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return "none of its addresses answers"


class HttpEngine:
    """`contract.Engine` over HTTP, for engines that speak OpenAI's API and say what they are at `/terascope/info`."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        served_name: str = "",
        probe_timeout_s: float = 10.0,
        tells_terms: bool = True,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Connect to nothing yet.

        `served_name`, when given, must be what the engine says it serves. With `tells_terms` the engine is told
        the scope of each call, "" too, in `X-Terascope-Scope`, its priority in `X-Terascope-Priority`, and the limits
        of a trace in `X-Terascope-Trace-Limits`.

        Raises `ConfigError` when the endpoint is not the address of an engine.
        """
        secret = [("Authorization", f"Bearer {endpoint.secret}")] if endpoint.secret else []
        self._client = HttpClient(endpoint.url, headers=secret, tls=tls, dial=endpoint.dial)
        self._served_name = served_name
        self._probe_timeout_s = probe_timeout_s
        self._tells_terms = tells_terms

    async def generate(self, call: EngineCall) -> EngineAnswer:
        return await self.send(call)

    async def send(self, call: EngineCall, *, root: bool = False) -> HttpAnswer:
        """`generate` for adapters that look into the answer; with `root` the endpoint is not below `/v1`."""
        path = f"/{call.endpoint}" if root or call.endpoint in _AT_ROOT else f"/v1/{call.endpoint}"
        headers = [("X-Request-Id", call.request_id), *self.extra_headers(call)]
        if self._tells_terms:
            headers += [("X-Terascope-Scope", call.scope), ("X-Terascope-Priority", str(call.priority))]
            headers += [("X-Terascope-Trace-Limits", orjson.dumps(call.limits).decode())] if call.limits else []
        if call.adapter is not None:
            headers.append((HEADER, call.adapter.header))
        return await self._client.request("POST", path, call.body, headers=headers)

    def extra_headers(self, call: EngineCall) -> list[tuple[str, str]]:
        """Return further headers that an adapter sends with `call`."""
        return []

    async def probe(self) -> EngineInfo:
        """As the contract says; an engine that is not healthy is unreachable with its own words."""
        status, body = await self.ask("/health")
        if status != 200:
            raise EngineUnreachable(words(body) or f"the engine's health check answered with status {status}")
        status, body = await self.ask("/terascope/info")
        if status != 200:
            raise EngineUnreachable(f"the engine does not say what it is: /terascope/info answered {status}")
        return self._checked(read_info(body))

    async def metrics(self) -> str:
        status, body = await self.ask("/metrics")
        return body.decode("utf-8", "replace") if status == 200 else ""

    @property
    def closed(self) -> bool:
        """True once it has been closed: there will be no further answers."""
        return self._client.closed

    async def aclose(self) -> None:
        await self._client.aclose()

    async def ask(self, path: str) -> tuple[int, bytes]:
        """GET `path`; return status and body. Raises `EngineUnreachable`, also when that takes too long."""
        try:
            async with asyncio.timeout(self._probe_timeout_s):
                answer = await self._client.request("GET", path)
                return answer.status, await answer.read(_MOST_TOLD)
        except TimeoutError:
            raise EngineUnreachable(f"the engine did not answer {path} within {self._probe_timeout_s:g} s") from None
        except EngineUnreachable:
            raise
        except (EngineError, EngineLost) as error:
            raise EngineUnreachable(error.message, detail=error.detail) from error

    def _checked(self, info: EngineInfo) -> EngineInfo:
        served = dict(info.details).get("served_name", self._served_name)
        if self._served_name and served != self._served_name:
            raise EngineUnreachable(f"the engine serves {served!r}, not {self._served_name!r}")
        return info


def words(body: bytes) -> str:
    """What an error body says."""
    message = engine_error(body).get("message")
    return message if isinstance(message, str) else ""

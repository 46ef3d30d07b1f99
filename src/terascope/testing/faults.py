"""An engine that fails as it is told: the fault is named by the request.

A test says which fault it wants in the field `fault` (`"fault": "pause after=3 seconds=6"`), or where a client lets no
such field through, in its text (`fault:die after=2`). `python -m terascope.testing.faults --port 9100` is the same as
a program; `GET /faults` lists what there is, `GET /faults/state` tells what happened, `POST /faults/release` lets
everything go on that `hold` has stopped.
"""

import argparse
import asyncio
import inspect
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from terascope.core.models import Capabilities, Feature
from terascope.engines.contract import Endpoint, EngineCall, EngineInfo
from terascope.engines.echo.httpd import Exchange, HttpServer, Request, head
from terascope.engines.echo.model import CAPABILITIES
from terascope.engines.info import info_json
from terascope.testing.fault_scripts import FAULTS, named_fault
from terascope.testing.scripts import Asked, Cut, Hold, Raw, Refused, Script, Sleep, Step

_ALL = Capabilities(CAPABILITIES.endpoints, frozenset(Feature))


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it arrived, and the parts of the body that it was answered with, without their framing."""

    path: str
    headers: dict[str, str] = field(repr=False)
    fields: dict[str, Any] = field(repr=False)
    sent: list[bytes] = field(default_factory=list, repr=False)


class FaultEngine:
    """Answers every request with the fault that it names, and remembers what happened."""

    def __init__(self, *, secret: str = "") -> None:
        self.received: list[Received] = []
        """Every request to a model, in the order they came."""
        self.running = 0
        """Requests being answered."""
        self.left = 0
        """Requests whose client left before the answer's end."""
        self.ill = ""
        """When set, what `/health` and `/v1/models` say with status 503."""
        self.fault = ""
        """When set, the fault of requests that name none: how one replica of several fails."""
        self.metrics: str | None = ""
        """What `/metrics` says; None: nothing until `release`."""
        self._secret = secret
        self._asked: Counter[str] = Counter()
        self._released = asyncio.Event()
        self._changed = asyncio.Condition()

    def release(self) -> None:
        """Let everything go on that `hold`, `stall` or `silent` has stopped; what comes later is stopped again."""
        released, self._released = self._released, asyncio.Event()
        released.set()

    async def until(self, holds: Callable[["FaultEngine"], bool]) -> None:
        """Return once `holds(self)` is true; looked at whenever a request begins or ends."""
        async with self._changed:
            await self._changed.wait_for(lambda: holds(self))

    async def handle(self, exchange: Exchange) -> None:
        """Answer one request."""
        request = exchange.request
        if self._secret and request.path != "/health" and not self._knows(request):
            await exchange.reply(401, orjson.dumps({"error": {"message": "no secret", "type": "authentication_error"}}))
        elif request.method == "GET":
            await self._tell(exchange)
        elif request.path == "/faults/release":
            self.release()
            await exchange.reply(200, b"{}")
        else:
            await self._answer(exchange)

    def _knows(self, request: Request) -> bool:
        return request.headers.get("authorization") == f"Bearer {self._secret}"

    async def _tell(self, exchange: Exchange) -> None:
        told: dict[str, Callable[[], object]] = {
            "/v1/models": lambda: {"object": "list", "data": []},
            "/faults": lambda: {name: inspect.getdoc(fault) for name, fault in FAULTS.items()},
            "/faults/state": lambda: {"received": len(self.received), "running": self.running, "left": self.left},
        }
        if exchange.request.path == "/health" or (self.ill and exchange.request.path == "/v1/models"):
            await exchange.reply(503 if self.ill else 200, orjson.dumps({"message": self.ill or "ok"}))
        elif exchange.request.path == "/terascope/info":
            await exchange.reply(200, info_json(EngineInfo("faults", "1", _ALL, 1_000_000)))
        elif exchange.request.path == "/metrics":
            await self._tell_metrics(exchange)
        elif exchange.request.path in told:
            await exchange.reply(200, orjson.dumps(told[exchange.request.path]()))
        else:
            await exchange.reply(404, orjson.dumps({"error": {"message": "not found", "type": "not_found"}}))

    async def _tell_metrics(self, exchange: Exchange) -> None:
        if self.metrics is None:
            await self._released.wait()
        await exchange.reply(200, (self.metrics or "").encode(), kind="text/plain")

    async def _answer(self, exchange: Exchange) -> None:
        await self._count(running=1)
        whole = False
        try:
            received = self._receive(exchange.request)
            await self._perform(exchange, self._script(received), received.sent)
            whole = True
        except Refused as refused:
            await exchange.reply(refused.status, refused.body)
            whole = True
        finally:
            await asyncio.shield(self._count(running=-1, left=0 if whole else 1))

    async def _count(self, *, running: int, left: int = 0) -> None:
        self.running += running
        self.left += left
        async with self._changed:
            self._changed.notify_all()

    def _receive(self, request: Request) -> Received:
        try:
            fields = orjson.loads(request.body)
        except orjson.JSONDecodeError:
            raise Refused(400, b'{"error":{"message":"not JSON","type":"invalid_request_error"}}') from None
        if not isinstance(fields, dict):
            raise Refused(400, b'{"error":{"message":"not an object","type":"invalid_request_error"}}')
        self.received.append(Received(request.path, request.headers, fields))
        return self.received[-1]

    def _script(self, request: Received) -> Script:
        name, options = named_fault(request.fields)
        if name == "none" and self.fault:
            name, options = named_fault({"fault": self.fault})
        if name not in FAULTS:
            message = f"there is no fault {name!r}; choose one of {', '.join(FAULTS)}"
            raise Refused(400, orjson.dumps({"error": {"message": message, "type": "invalid_request_error"}}))
        endpoint = request.path.removeprefix("/v1/").removeprefix("/")
        call = EngineCall(request.headers.get("x-request-id", "req_faults"), endpoint, orjson.dumps(request.fields))
        asked = Asked(call, request.fields, request.headers, options, self._asked[name])
        self._asked[name] += 1
        return FAULTS[name](asked)

    async def _perform(self, exchange: Exchange, script: Script, sent: list[bytes]) -> None:
        """Play `script` to its end, which may be a cut; ends early only when the client leaves."""
        body = _Body(exchange, script)
        for step in script.parts:
            if isinstance(step, Sleep):
                await asyncio.sleep(step.seconds)
            elif isinstance(step, Hold):
                await self._released.wait()
            elif isinstance(step, Cut):
                exchange.keep = False
                return exchange.reset() if step.reset else exchange.close()
            else:
                sent += [step] if isinstance(step, bytes) else []
                await body.send(step)
        return await body.end()


class _Body:
    """Frames the parts of an answer as its script says."""

    def __init__(self, exchange: Exchange, script: Script) -> None:
        self._exchange = exchange
        self._script = script
        self._begun = False
        exchange.keep = script.framing not in ("close", "eof")

    async def send(self, part: Step) -> None:
        if isinstance(part, Raw):
            return await self._write(part.data)
        assert isinstance(part, bytes), part
        await self._begin()
        chunked = self._script.framing == "chunked"
        return await self._write(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)

    async def end(self) -> None:
        await self._begin()
        if self._script.framing == "chunked":
            await self._write(b"0\r\n\r\n")

    async def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            headers = (("Content-Type", self._script.kind), *self._script.headers, *self._framing())
            await self._write(head(self._script.status, headers))

    def _framing(self) -> tuple[tuple[str, str], ...]:
        if self._script.framing == "chunked":
            return (("Transfer-Encoding", "chunked"),)
        if self._script.framing == "length":
            known = sum(len(part) for part in self._script.parts if isinstance(part, bytes))
            return (("Content-Length", str(known if self._script.length is None else self._script.length)),)
        return (("Connection", "close"),) if self._script.framing == "close" else ()

    async def _write(self, data: bytes) -> None:
        if not self._script.bytewise:
            return await self._exchange.raw(data)
        for byte in data:
            await self._exchange.raw(bytes((byte,)))
            await asyncio.sleep(0)
        return None


@dataclass(frozen=True, slots=True)
class Served:
    """A fault engine that listens at `endpoint`."""

    engine: FaultEngine
    endpoint: Endpoint

    @property
    def url(self) -> str:
        """Where it listens."""
        return self.endpoint.url


@asynccontextmanager
async def faulty(*, path: Path | None = None, port: int = 0, secret: str = "") -> AsyncIterator[Served]:
    """A fault engine in the running event loop, on the Unix socket `path` or on a port."""
    engine = FaultEngine(secret=secret)
    server = HttpServer(engine.handle)
    await server.listen(path=path, port=port)
    try:
        yield Served(engine, Endpoint(server.url, secret))
    finally:
        await server.aclose()


@asynccontextmanager
async def refusing() -> AsyncIterator[Endpoint]:
    """An endpoint at which connections are refused, and that nobody else can take meanwhile."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield Endpoint(f"http://127.0.0.1:{sock.getsockname()[1]}")


@asynccontextmanager
async def hanging() -> AsyncIterator[Endpoint]:
    """An endpoint that takes connections and never reads from them."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(128)
        yield Endpoint(f"http://127.0.0.1:{sock.getsockname()[1]}")


async def _serve(path: Path | None, port: int) -> None:
    async with faulty(path=path, port=port) as served:
        sys.stdout.write(f"listening on {served.url}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m terascope.testing.faults", description=__doc__)
    parser.add_argument("--socket", type=Path, help="Unix socket to listen on")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 takes a free one")
    given = parser.parse_args(arguments)
    asyncio.run(_serve(given.socket, given.port))


if __name__ == "__main__":
    main()

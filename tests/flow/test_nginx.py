"""The shipped nginx configuration, in a real nginx with TLS, between a real client and a real gateway.

The engine is a server that the test drives: it says what the test tells it to, when the test tells it to.
"""

import asyncio
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import httpx
import orjson
import pytest

from terascope.core.clock import SystemClock
from terascope.core.config import Config, DeploymentConfig, ServerConfig
from terascope.engines.echo.httpd import Exchange, HttpServer
from terascope.engines.upstream import HttpClient
from terascope.fleet.tunnel.agent import Agent
from terascope.fleet.tunnel.dial import engine_target, tunnel_dial
from terascope.fleet.tunnel.gate import hashed
from terascope.fleet.tunnel.gateway_end import ENGINE, GatewayEnd
from terascope.store.database import Database, sqlite_url
from terascope.store.replicas import ReplicaStore
from terascope.testing.gateway import Served, serving

pytestmark = pytest.mark.slow

SHIPPED = Path(__file__).parents[2] / "docs" / "how-to" / "files" / "nginx.conf"
DONE = b"data: [DONE]\n\n"


@dataclass
class DrivenEngine:
    """An OpenAI-compatible server whose streams say what is put into `words`, and end at None."""

    words: "asyncio.Queue[str | None]" = field(default_factory=asyncio.Queue)
    asked: "asyncio.Queue[bytes]" = field(default_factory=asyncio.Queue)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, exchange: Exchange) -> None:
        if exchange.request.method == "GET":
            await exchange.reply(200, b'{"object": "list", "data": [{"id": "driven", "object": "model"}]}')
            return
        self.asked.put_nowait(exchange.request.body)
        await exchange.begin(200, "text/event-stream")
        try:
            while (word := await self.words.get()) is not None:
                await exchange.chunk(_event(word, None))
            await exchange.chunk(_event("", "stop") + DONE)
            await exchange.end()
        except asyncio.CancelledError:
            self.left.set()
            raise


def _event(text: str, reason: str | None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason}
    return b"data: " + orjson.dumps({"id": "x", "model": "driven", "choices": [choice]}) + b"\n\n"


@dataclass(frozen=True)
class Front:
    """The way in through nginx: a client that trusts its certificate, and the engine at the other end."""

    client: httpx.AsyncClient
    engine: DrivenEngine
    plain_url: str
    served: Served
    upstream_url: str
    certificate: Path

    @asynccontextmanager
    async def stream(self, *words: str) -> AsyncIterator[AsyncIterator[str]]:
        """A chat stream: its lines as they come, without empty ones. The engine says `words` at once.

        The answer's headers come with its first event, so that an engine that fails before it gets a status.
        """
        for word in words:
            self.engine.words.put_nowait(word)
        body = {"model": "driven", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        async with self.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            assert answer.status_code == 200
            yield (line async for line in answer.aiter_lines() if line)


Open = Callable[..., AbstractAsyncContextManager[Front]]


@pytest.fixture
def front(need_program: Callable[[str], str], tmp_path: Path) -> Open:
    """Opens nginx before a gateway before an engine: `async with front(heartbeat_s=15, read_timeout="1h")`."""
    nginx, openssl = need_program("nginx"), need_program("openssl")

    @asynccontextmanager
    async def open_front(*, heartbeat_s: float = 15.0, read_timeout: str = "1h") -> AsyncIterator[Front]:
        engine = DrivenEngine()
        upstream = HttpServer(engine.handle)
        await upstream.listen()
        deployment = DeploymentConfig(model="driven", engine="remote", url=upstream.url)
        config = Config(server=ServerConfig(heartbeat_s=heartbeat_s), deployments=[deployment])
        try:
            async with serving(config, data_dir=tmp_path / "data") as served:
                text = SHIPPED.read_text().replace("proxy_read_timeout 1h", f"proxy_read_timeout {read_timeout}")
                async with _nginx(nginx, openssl, text, served.url, tmp_path) as (url, plain_url):
                    context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
                    async with httpx.AsyncClient(base_url=url, verify=context, headers=served.headers) as client:
                        yield Front(client, engine, plain_url, served, upstream.url, tmp_path / "cert.pem")
        finally:
            await upstream.aclose()

    return open_front


@asynccontextmanager
async def _nginx(program: str, openssl: str, text: str, gateway: str, place: Path) -> AsyncIterator[tuple[str, str]]:
    """nginx with the server block `text`, its marked lines filled in; yields its URLs, with and without TLS."""
    tls, plain = _free_ports()
    await _certificate(openssl, place)
    filled = text.replace("127.0.0.1:8000", gateway.removeprefix("http://"))
    filled = filled.replace("listen 443 ssl", f"listen 127.0.0.1:{tls} ssl").replace(
        "listen 80", f"listen 127.0.0.1:{plain}"
    )
    filled = re.sub(r"listen \[::\].*", "", filled)
    filled = filled.replace("/etc/ssl/certs/models.example.org.pem", str(place / "cert.pem"))
    filled = filled.replace("/etc/ssl/private/models.example.org.key", str(place / "key.pem"))
    (place / "nginx.conf").write_text(_main(filled, place))
    process = await asyncio.create_subprocess_exec(
        program, "-p", str(place), "-c", str(place / "nginx.conf"), "-e", "stderr", stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        said = b""
        while b"start worker processes" not in said:
            line = await process.stderr.readline()
            assert line, said.decode()
            said += line
        yield f"https://127.0.0.1:{tls}", f"http://127.0.0.1:{plain}"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


def _main(servers: str, place: Path) -> str:
    """What surrounds a server block: Debian's nginx.conf reduced to what must be."""
    temporary = "\n".join(
        f"  {kind}_temp_path {place}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.geteuid() == 0 else ""
    return (
        f"{user}\ndaemon off;\nworker_processes 1;\npid {place}/nginx.pid;\nerror_log stderr notice;\n"
        f"events {{ }}\nhttp {{\n  access_log off;\n{temporary}\n{servers}\n}}\n"
    )


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


async def _certificate(openssl: str, place: Path) -> None:
    names = "subjectAltName=IP:127.0.0.1,DNS:models.example.org"
    process = await asyncio.create_subprocess_exec(
        openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", "/CN=models.example.org", "-addext", names, "-keyout", str(place / "key.pem"),
        "-out", str(place / "cert.pem"), stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()


async def test_events_come_one_by_one(front: Open) -> None:
    """The engine says a word only when the client has the one before: a proxy that collects would wait for ever."""
    async with front() as through, through.stream("one") as lines:
        for word, following in pairwise(["one", "two", "three", "four", "five"]):
            assert f'"content":"{word}"' in await anext(lines)
            through.engine.words.put_nowait(following)
        assert '"content":"five"' in await anext(lines)
        through.engine.words.put_nowait(None)
        assert [line async for line in lines][-1] == "data: [DONE]"


async def test_comments_keep_a_silent_stream_open(front: Open) -> None:
    """nginx may wait one second here; the engine is silent for longer, and the whole answer arrives."""
    async with front(heartbeat_s=0.25, read_timeout="1s") as through, through.stream() as lines:
        silent = [await anext(lines) for _ in range(8)]
        assert all(line.startswith(":") for line in silent)
        through.engine.words.put_nowait("late")
        through.engine.words.put_nowait(None)
        rest = [line async for line in lines if not line.startswith(":")]
        assert '"content":"late"' in rest[0]
        assert rest[-1] == "data: [DONE]"


async def test_without_comments_nginx_cuts_it(front: Open) -> None:
    """What the comments are for: with the same nginx and none of them, the stream ends without `[DONE]`."""
    async with front(heartbeat_s=60, read_timeout="1s") as through, through.stream("early") as lines:
        seen = [await anext(lines)]
        with pytest.raises(httpx.RemoteProtocolError):
            seen += [line async for line in lines]
        assert "data: [DONE]" not in seen


async def test_a_client_that_leaves_stops_the_engine(front: Open) -> None:
    async with front() as through:
        async with through.stream("one") as lines:
            await anext(lines)
        await asyncio.wait_for(through.engine.left.wait(), timeout=5)


async def test_bodies_may_be_as_large_as_the_gateway_takes(front: Open) -> None:
    """nginx's own limit is 1 MB."""
    async with front() as through:
        body = {"model": "driven", "messages": [{"role": "user", "content": "x" * (20 << 20)}], "stream": True}
        through.engine.words.put_nowait(None)
        answer = await through.client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200
        assert len(await through.engine.asked.get()) > 20 << 20


async def test_plain_http_leads_to_tls(front: Open) -> None:
    async with front() as through:
        answer = await through.client.get(f"{through.plain_url}/v1/models", headers={"host": "models.example.org"})
        assert answer.status_code == 301
        assert answer.headers["location"] == "https://models.example.org/v1/models"


async def _expected(served: Served, token: str) -> GatewayEnd:
    """The gateway's end of a tunnel for one more replica of the deployment, whose agent shows `token`."""
    [replica] = served.services.fleet.ready()
    database = await Database.open(sqlite_url(served.data_dir / "terascope.db"))
    try:
        row = replace(replica.row, id="replica_far", url="tunnel:replica_far", agent_hash=hashed(token))
        await ReplicaStore(database).add(row)
    finally:
        await database.aclose()
    return served.services.fleet.tunnels.expect("replica_far", 30.0)


async def test_an_agent_comes_through_with_tls(front: Open) -> None:
    """The engine is asked through nginx by the agent's connection, over the certificate that the agent is told of."""
    async with front() as through:
        end = await _expected(through.served, "a-token")
        url = str(through.client.base_url)
        with pytest.raises(ConnectionError, match="certificate"):
            async with tunnel_dial(url, "driven", "a-token")():
                pass
        dial = tunnel_dial(url, "driven", "a-token", ca=through.certificate)
        running = asyncio.create_task(Agent(dial, engine_target(through.upstream_url, None), SystemClock()).run())
        client = HttpClient("tunnel:replica_far", dial=lambda protocol: end.connect(ENGINE, protocol))
        try:
            async with asyncio.timeout(30):
                while not end.connected:  # noqa: ASYNC110 - the agent is seen from here only
                    await asyncio.sleep(0)
                answer = await client.request("GET", "/v1/models")
                assert b'"driven"' in await answer.read(1000)
        finally:
            await client.aclose()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

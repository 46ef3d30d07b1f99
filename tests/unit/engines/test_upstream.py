"""Requests over real sockets: kept connections, stale ones, slow peers, TLS, and what an engine says of itself."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import pytest

from terascope.core.errors import ConfigError, EngineError, EngineLost, EngineUnreachable
from terascope.core.models import Capabilities
from terascope.engines.contract import Endpoint, EngineCall, EngineInfo
from terascope.engines.http1 import HttpAnswer
from terascope.engines.info import info_json, read_info
from terascope.engines.upstream import Address, HttpClient, HttpEngine
from terascope.testing.faults import faulty, hanging, refusing

_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Play = Callable[["Peer"], Awaitable[None]]


@dataclass
class Peer:
    """The engine's side of one connection; `number` counts connections from 0."""

    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    bodies: list[bytes] = field(default_factory=list)

    async def request(self) -> bytes:
        """The head of the next request; its body goes to `bodies`. Empty when the client is gone."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""
        length = next((line.split(b":")[1] for line in head.split(b"\r\n") if line.startswith(b"Content-Length")), b"0")
        self.bodies.append(await self.reader.readexactly(int(length)))
        return head

    async def answer(self, raw: bytes = _OK) -> None:
        self.writer.write(raw)
        await self.writer.drain()


@dataclass
class Engine:
    """What runs at the other end: `url`, and how many connections it has had."""

    url: str
    connections: int = 0
    closed: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def until_closed(self, count: int) -> None:
        while self.closed < count:
            self.changed.clear()
            await self.changed.wait()


@asynccontextmanager
async def engine(play: Play, *, path: Path | None = None, tls: ssl.SSLContext | None = None) -> AsyncIterator[Engine]:
    """An engine that does `play` with every connection."""
    running = Engine("")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(running.connections, reader, writer)
        running.connections += 1
        try:
            await play(peer)
            writer.close()
        finally:
            running.closed += 1
            running.changed.set()

    if path:
        server = await asyncio.start_unix_server(serve, path)
        running.url = f"unix:{path}"
    else:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
        port = server.sockets[0].getsockname()[1]
        running.url = f"https://localhost:{port}" if tls else f"http://127.0.0.1:{port}"
    async with server:
        yield running


async def always(peer: Peer) -> None:
    """Answer every request rightly."""
    while await peer.request():
        await peer.answer()


@asynccontextmanager
async def client(url: str, **options: float) -> AsyncIterator[HttpClient]:
    one = HttpClient(url, **options)  # type: ignore[arg-type]
    try:
        yield one
    finally:
        await one.aclose()


async def read(answer: HttpAnswer) -> bytes:
    return await answer.read(1 << 30)


async def test_requests_share_a_connection_when_they_follow_each_other(tmp_path: Path) -> None:
    for path in (None, tmp_path / "engine.sock"):
        async with engine(always, path=path) as running, client(running.url) as one:
            for _ in range(5):
                assert await read(await one.request("POST", "/x", b"{}")) == b"ok"
            assert running.connections == 1
            await asyncio.gather(*(_post(one) for _ in range(4)))
            assert 1 < running.connections <= 4


async def _post(one: HttpClient) -> bytes:
    return await read(await one.request("POST", "/x", b"{}"))


async def test_what_a_request_looks_like() -> None:
    heads: list[bytes] = []

    async def play(peer: Peer) -> None:
        heads.append(await peer.request())
        assert peer.bodies == [b'{"a":1}']
        await peer.answer()

    async with engine(play) as running:
        one = HttpEngine(Endpoint(f"{running.url}/prefix/", "the-secret"))
        call = EngineCall("req_7", "chat/completions", b'{"a":1}', "key_1", 2, {"prompts": 3})
        await (await one.send(call)).read(10)
        await one.aclose()
    lines = heads[0].split(b"\r\n")
    assert lines[0] == b"POST /prefix/v1/chat/completions HTTP/1.1"
    assert set(lines[1:-2]) == {
        b"Host: " + running.url.removeprefix("http://").encode(), b"Authorization: Bearer the-secret",
        b"Accept-Encoding: identity", b"X-Request-Id: req_7", b"Content-Type: application/json", b"Content-Length: 7",
        b"X-Terascope-Scope: key_1", b"X-Terascope-Priority: 2", b'X-Terascope-Trace-Limits: {"prompts":3}',
    }  # fmt: skip


@pytest.mark.parametrize(("tells", "expected"), [(True, ["key_1", ""]), (False, [None, None])])
async def test_scope_and_priority_are_told_where_they_are_to_be_told(tells: bool, expected: list[str | None]) -> None:
    async with faulty() as served:
        one = HttpEngine(served.endpoint, tells_terms=tells)
        for scope in ("key_1", ""):
            await (await one.send(EngineCall("req_1", "tokenize", b"{}", scope))).read(1 << 20)
        assert [heard.headers.get("x-terascope-scope") for heard in served.engine.received] == expected
        told = [heard.headers.get("x-terascope-priority") for heard in served.engine.received]
        assert told == (["1", "1"] if tells else [None, None])
        await one.aclose()


async def test_a_scope_is_one_header_or_none() -> None:
    one = HttpEngine(Endpoint("http://127.0.0.1:1"))
    with pytest.raises(ConfigError, match="X-Terascope-Scope"):
        await one.generate(EngineCall("req_1", "tokenize", b"{}", "a\r\nX-Other: b"))
    await one.aclose()


async def test_tokenize_is_at_the_root() -> None:
    paths: list[bytes] = []

    async def play(peer: Peer) -> None:
        while head := await peer.request():
            paths.append(head.split(b" ")[1])
            await peer.answer()

    async with engine(play) as running:
        one = HttpEngine(Endpoint(running.url))
        for endpoint in ("tokenize", "detokenize", "embeddings"):
            await (await one.send(EngineCall("req_1", endpoint, b"{}"))).read(10)
        await one.aclose()
    assert paths == [b"/tokenize", b"/detokenize", b"/v1/embeddings"]


async def test_a_kept_connection_that_was_closed_costs_a_second_try() -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.answer()
        if peer.number == 0:
            await peer.request()  # the first connection ends when a second request comes
        else:
            await always(peer)

    async with engine(play) as running, client(running.url) as one:
        assert await _post(one) == b"ok"
        assert await _post(one) == b"ok"
        assert running.connections == 2


async def test_a_new_connection_that_is_closed_is_not_tried_again() -> None:
    async def play(peer: Peer) -> None:
        await peer.request()

    async with engine(play) as running, client(running.url) as one:
        with pytest.raises(EngineUnreachable):
            await _post(one)
        assert running.connections == 1


async def test_a_request_whose_answer_had_begun_is_not_sent_again() -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.answer()
        await peer.request()
        await peer.answer(b"HTTP/1.1 200 O")

    async with engine(play) as running, client(running.url) as one:
        await _post(one)
        with pytest.raises(EngineUnreachable):
            await _post(one)
        assert running.connections == 1


async def test_idle_connections_are_dropped_after_a_while_and_when_the_engine_closes_them() -> None:
    async with engine(always) as running, client(running.url, idle_s=0.02) as one:
        await asyncio.gather(*(_post(one) for _ in range(3)))
        await running.until_closed(running.connections)
        assert one._idle == []

    async def once(peer: Peer) -> None:
        await peer.request()
        await peer.answer()

    async with engine(once) as running, client(running.url) as one:
        await _post(one)
        await running.until_closed(1)
        await _post(one)
        assert running.connections == 2


async def test_reading_stops_while_nobody_takes_the_answer() -> None:
    size, sent = 64 << 20, 0

    async def play(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        peer.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size >> 16):
            await peer.answer(bytes(1 << 16))
            sent += 1 << 16

    async with engine(play) as running, client(running.url) as one:
        answer = await one.request("GET", "/")
        before = -1
        while before != sent:  # until the engine can send no more
            before = sent
            await asyncio.sleep(0.05)
        assert sent < size // 4
        assert sum([len(chunk) async for chunk in answer.chunks()]) == size


async def test_a_large_body_is_sent_no_faster_than_it_is_read() -> None:
    body, begun, go_on = bytes(32 << 20), asyncio.Event(), asyncio.Event()

    async def play(peer: Peer) -> None:
        begun.set()
        await go_on.wait()
        await peer.request()
        await peer.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n%08d" % len(peer.bodies[0]))

    async with engine(play) as running, client(running.url) as one:
        asking = asyncio.create_task(one.request("POST", "/", body))
        await begun.wait()
        await asyncio.sleep(0.05)
        (connection,) = one._all
        assert connection._transport is not None
        assert connection._transport.get_write_buffer_size() < 1 << 20
        go_on.set()
        assert int(await read(await asking)) == len(body)
        assert len(one._idle) == 1


async def test_an_answer_that_comes_before_the_request_is_sent_is_taken() -> None:
    leave = asyncio.Event()

    async def play(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.answer(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno!")
        await leave.wait()

    async with engine(play) as running, client(running.url) as one:
        answer = await one.request("POST", "/", bytes(32 << 20))
        assert (answer.status, await read(answer)) == (413, b"no!")
        assert one._idle == [], "half a request is left in that connection"
        leave.set()


async def test_an_answer_has_a_limit_where_one_is_asked_for() -> None:
    async with engine(always) as running, client(running.url) as one:
        with pytest.raises(EngineError, match="longer"):
            await (await one.request("GET", "/")).read(1)


async def test_closing_the_client_cuts_what_runs() -> None:
    async with faulty() as served:
        one = HttpEngine(served.endpoint)
        body = b'{"model":"m","stream":true,"fault":"stall","messages":[]}'
        answer = await one.generate(EngineCall("req_1", "chat/completions", body))
        silent = asyncio.create_task(one.generate(EngineCall("req_2", "completions", b'{"fault":"silent"}')))
        await served.engine.until(lambda engine: engine.running == 2)
        await one.aclose()
        await one.aclose()
        with pytest.raises(EngineLost):
            _ = [chunk async for chunk in answer.chunks()]
        with pytest.raises(EngineUnreachable):
            await silent
        with pytest.raises(EngineUnreachable, match="closed"):
            await one.generate(EngineCall("req_3", "completions", b"{}"))
        await served.engine.until(lambda engine: engine.left == 2)


async def test_no_connection(tmp_path: Path) -> None:
    async with refusing() as endpoint, client(endpoint.url) as one:
        with pytest.raises(EngineUnreachable, match="Connection refused"):
            await one.request("GET", "/")
    async with client(f"unix:{tmp_path}/nothing.sock") as one:
        with pytest.raises(EngineUnreachable, match="not opened its socket"):
            await one.request("GET", "/")
    async with client("http://" + "a" * 70 + ".localhost") as one:  # a label may have 63 characters
        with pytest.raises(EngineUnreachable):
            await one.request("GET", "/")


async def test_connecting_has_a_limit() -> None:
    async with hanging() as endpoint, client(endpoint.url.replace("http", "https"), connect_timeout_s=0.05) as one:
        with pytest.raises(EngineUnreachable, match=r"within 0\.05 s"):  # nobody takes part in the TLS handshake
            await one.request("GET", "/")


async def test_cancelling_while_connecting_leaves_nothing() -> None:
    async with hanging() as endpoint, client(endpoint.url.replace("http", "https")) as one:
        asking = asyncio.create_task(one.request("GET", "/"))
        await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.wait([asking])
        assert asking.cancelled()
        assert one._all == set()


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_cancelling_at_any_moment_of_connecting(scheme: str) -> None:
    """uvloop may have told the protocol of a connection that it then closes without a word."""
    async with hanging() as endpoint:
        for moments in range(20):
            one = HttpClient(endpoint.url.replace("http", scheme))
            asking = asyncio.create_task(one.request("GET", "/"))
            for _ in range(moments):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait([asking])
            async with asyncio.timeout(10):
                await one.aclose()
            assert one._all == set()


@pytest.fixture
async def certificate(need_program: Callable[[str], str], tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for localhost, and its key."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    process = await asyncio.create_subprocess_exec(
        need_program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key),
        "-out", str(cert), stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert await process.wait() == 0
    return cert, key


async def test_tls(certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(cert, key)
    async with engine(always, tls=serving) as running:
        trusting = HttpClient(running.url, tls=ssl.create_default_context(cafile=str(cert)))
        for size in (10, 2 << 20):
            assert await read(await trusting.request("POST", "/", bytes(size))) == b"ok"
        assert running.connections == 1
        await trusting.aclose()
        async with client(running.url) as one:
            with pytest.raises(EngineUnreachable, match="not trusted"):
                await one.request("GET", "/")


async def test_nothing_slips_into_a_header() -> None:
    for secret in ("a\r\nX-Evil: 1", "a\nb", "a\x00", "schl\u00fcssel"):
        with pytest.raises(ConfigError, match="Authorization"):
            HttpEngine(Endpoint("http://localhost", secret))
    async with client("http://localhost") as one:
        with pytest.raises(ConfigError):
            await one.request("GET", "/", headers=(("X-Request-Id", "a\r\nb"),))


@pytest.mark.parametrize(
    ("url", "expected", "authority"),
    [
        ("unix:/run/a.sock", Address("localhost", 0, path="/run/a.sock"), "localhost"),
        ("http://a", Address("a", 80), "a"),
        ("http://a:8000/x/", Address("a", 8000, prefix="/x"), "a:8000"),
        ("https://a/x/y", Address("a", 443, prefix="/x/y", tls=True), "a"),
        ("https://a:80", Address("a", 80, tls=True), "a:80"),
        ("http://[::1]:9", Address("::1", 9), "[::1]:9"),
    ],
)
def test_addresses(url: str, expected: Address, authority: str) -> None:
    assert Address.parse(url) == expected
    assert expected.authority == authority


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a",
        "unix:a",
        "ftp://a",
        "http://",
        "http://a:b",
        "http://a:99999",
        "http://u:p@a",
        "http://a/?q",
        "http://a/ b",
    ],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Address.parse(url)
    assert "u:p" not in str(caught.value)


def test_info_round_trip() -> None:
    info = EngineInfo(
        "torch", "1", Capabilities(frozenset({"a"}), frozenset({"b"})), 9, "float32", "cpu", (("c", "d"),), 32, 4
    )
    assert read_info(info_json(info)) == info
    for body in (b"", b"[]", b"{}", b'{"engine":"a","version":"b","capabilities":[]}', b'{"engine":1}', b"null"):
        with pytest.raises(EngineUnreachable):
            read_info(body)


async def _probe(health: tuple[int, bytes], info: tuple[int, bytes], served_name: str = "") -> EngineInfo:
    async def play(peer: Peer) -> None:
        while head := await peer.request():
            status, body = health if head.startswith(b"GET /health ") else info
            await peer.answer(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))

    async with engine(play) as running:
        one = HttpEngine(Endpoint(running.url), served_name=served_name)
        try:
            return await one.probe()
        finally:
            await one.aclose()


async def test_probe() -> None:
    info = EngineInfo("torch", "1", Capabilities(), details=(("served_name", "m"),))
    assert await _probe((200, b""), (200, info_json(info)), "m") == info
    with pytest.raises(EngineUnreachable, match="serves 'm', not 'other'"):
        await _probe((200, b""), (200, info_json(info)), "other")
    with pytest.raises(EngineUnreachable, match="answered 404"):
        await _probe((200, b""), (404, b""))
    with pytest.raises(EngineUnreachable, match="status 503"):
        await _probe((503, b"busy"), (200, b""))
    for said in ({"message": "loads"}, {"error": {"message": "loads"}}, {"detail": "loads"}):
        with pytest.raises(EngineUnreachable, match="loads"):
            await _probe((503, orjson.dumps(said)), (200, b""))


async def test_probing_what_breaks_off() -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok")

    async with engine(play) as running:
        one = HttpEngine(Endpoint(running.url))
        with pytest.raises(EngineUnreachable, match="lost"):
            await one.probe()
        await one.aclose()


async def test_metrics() -> None:
    async def play(peer: Peer) -> None:
        while head := await peer.request():
            known = head.startswith(b"GET /p/metrics ")
            await peer.answer(_OK if known else b"HTTP/1.1 404 Not Found\r\nContent-Length: 1\r\n\r\nx")

    async with engine(play) as running:
        for prefix, expected in (("/p", "ok"), ("", "")):
            one = HttpEngine(Endpoint(running.url + prefix))
            assert await one.metrics() == expected
            await one.aclose()

"""The server under the echo engine, asked by strangers: httpx, and bytes by hand."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import orjson
import pytest

from terascope.engines.echo.httpd import Exchange, Handler, HttpServer
from terascope.engines.echo.server import EchoServer
from terascope.testing.engine_subject import user


@asynccontextmanager
async def listening(handler: Handler) -> AsyncIterator[HttpServer]:
    server = HttpServer(handler)
    await server.listen()
    try:
        yield server
    finally:
        await server.aclose()
        await server.aclose()


@asynccontextmanager
async def raw(server: HttpServer) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, _, port = server.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    yield reader, writer
    writer.close()
    await writer.wait_closed()


async def mirror(exchange: Exchange) -> None:
    request = exchange.request
    said = {
        "method": request.method,
        "path": request.path,
        "body": request.body.decode(),
        "x": request.headers.get("x"),
    }
    await exchange.reply(200, orjson.dumps(said))


async def test_requests_arrive_as_they_were_sent() -> None:
    async with listening(mirror) as server, httpx.AsyncClient(base_url=server.url) as client:
        for body in ("", "hello", "x" * 1_000_000):
            answer = await client.put("/a/b?query=1", content=body, headers={"X": "y"})
            assert answer.json() == {"method": "PUT", "path": "/a/b", "body": body, "x": "y"}
        assert len(server.connections) == 1


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with listening(mirror) as server, raw(server) as (reader, writer):
        writer.write(b"".join(b"GET /%d HTTP/1.1\r\n\r\n" % i for i in range(3)))
        for i in range(3):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
            assert orjson.loads(await reader.readexactly(length))["path"] == f"/{i}"


async def test_connection_close_and_expect_are_honoured() -> None:
    async with listening(mirror) as server, raw(server) as (reader, writer):
        head = b"POST / HTTP/1.1\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        writer.write(head)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ok")
        assert (await reader.read()).endswith(b'"body":"ok","x":null}')


@pytest.mark.parametrize(
    "junk", [b"\x00\x01\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"GET / HTTP/x\r\n\r\n"]
)
async def test_junk_is_refused(junk: bytes) -> None:
    async with listening(mirror) as server, raw(server) as (reader, writer):
        writer.write(junk)
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")


async def test_a_handler_that_fails_is_an_error_of_one_request(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(exchange: Exchange) -> None:
        if exchange.request.path == "/late":
            await exchange.begin(200, "text/plain")
        raise ValueError("a bug")

    async with listening(fail) as server, httpx.AsyncClient(base_url=server.url) as client:
        assert (await client.get("/")).status_code == 500
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/late")
    assert "a bug" in caplog.text


async def test_a_client_that_leaves_cancels_the_handler() -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def wait(exchange: Exchange) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with listening(wait) as server:
        async with raw(server) as (_, writer):
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            await begun.wait()
        async with asyncio.timeout(10):
            await cancelled.wait()


async def test_a_client_that_reads_slowly_slows_the_handler_and_sending_to_nobody_fails() -> None:
    sent, error = 0, asyncio.Event()

    async def pour(exchange: Exchange) -> None:
        nonlocal sent
        try:
            while True:
                await exchange.raw(bytes(1 << 16))
                sent += 1 << 16
        except (ConnectionError, asyncio.CancelledError):
            error.set()
            raise

    async with listening(pour) as server:
        with socket.create_connection(tuple(server.url.removeprefix("http://").split(":"))) as client:  # type: ignore[arg-type]
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            before = -1
            while before != sent or not sent:
                before = sent
                await asyncio.sleep(0.02)
        async with asyncio.timeout(10):
            await error.wait()


async def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    server = HttpServer(mirror)
    await server.listen(path=path)
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path))) as client:
        assert (await client.get("http://x/")).status_code == 200
    await server.aclose()
    assert not path.exists()
    with pytest.raises(OSError, match="No such file"):
        await HttpServer(mirror).listen(path=tmp_path / "nowhere" / "a.sock")


async def test_the_echo_server_to_a_stranger() -> None:
    async with listening(EchoServer().handle) as server, httpx.AsyncClient(base_url=server.url) as client:
        assert (await client.get("/health")).json() == {"status": "ok"}
        (model,) = (await client.get("/v1/models")).json()["data"]
        assert (model["id"], model["max_model_len"]) == ("echo", 131072)
        for method, path, status in (
            ("GET", "/nothing", 404), ("POST", "/nothing", 404), ("POST", "/v1/nothing", 404),
            ("DELETE", "/v1/models", 400),
        ):  # fmt: skip
            answer = await client.request(method, path)
            assert answer.status_code == status
            assert answer.json()["error"]["message"]
        body = {"model": "any", "messages": user("hello there"), "stream": True}
        answer = await client.post("/v1/chat/completions", json=body)
        assert answer.text.count("data: ") == 5

"""One connection, fed by hand: however bytes are cut, the answer is the same; a part is never taken for the whole."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from terascope.core.errors import EngineError, EngineLost, EngineUnreachable
from terascope.engines.http1 import Connection, HttpAnswer
from terascope.engines.upstream import HttpClient
from terascope.testing.transports import MemoryTransport

_REQUEST = b"POST / HTTP/1.1\r\n\r\n"
_FRAMINGS = ("chunked", "length", "close", "old")


@dataclass(frozen=True)
class Response:
    """A valid response in bytes, and what it says. `body_at` is where its body begins."""

    raw: bytes
    body: bytes
    body_at: int
    framing: str


def response(parts: list[bytes], framing: str, *, interim: bool = False, trailers: bool = False) -> Response:
    head = b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n" if interim else b""
    head += b"HTTP/1.0 200 OK\r\n" if framing == "old" else b"HTTP/1.1 200 OK\r\n"
    head += b"X-One: a\r\nx-ONE:  b \r\n"
    body = b"".join(parts)
    if framing == "chunked":
        head += b"Transfer-Encoding: chunked\r\n"
        framed = b"".join(b"%x;note=1\r\n%b\r\n" % (len(part), part) for part in parts if part) + b"0\r\n"
        framed += b"X-Trailer: 1\r\n\r\n" if trailers else b"\r\n"
    else:
        head += {"length": b"Content-Length: %d\r\n" % len(body), "close": b"Connection: close\r\n", "old": b""}[
            framing
        ]
        framed = body
    head += b"\r\n"
    return Response(head + framed, body, len(head), framing)


responses = st.builds(
    response,
    st.lists(st.binary(max_size=40), max_size=6),
    st.sampled_from(_FRAMINGS),
    interim=st.booleans(),
    trailers=st.booleans(),
)


class Line:
    """A client's connection and the other end of it."""

    def __init__(self) -> None:
        self.client = HttpClient("http://engine")
        self.connection = Connection(self.client)
        self.transport = MemoryTransport(self.connection)
        self.got = b""

    async def exchange(self) -> HttpAnswer:
        """Send a request and take in the whole answer, which ends up in `got`."""
        answer = await self.connection.send(_REQUEST, b"{}")
        async for chunk in answer.chunks():
            assert chunk
            self.got += chunk
        return answer

    async def play(self, pieces: list[bytes], *, pauses: bool) -> "asyncio.Task[HttpAnswer]":
        """Start an exchange and feed `pieces`; with `pauses` the client looks at each one by itself."""
        task = asyncio.create_task(self.exchange())
        await asyncio.sleep(0)
        for piece in pieces:
            self.transport.feed(piece)
            if pauses:
                await asyncio.sleep(0)
                await asyncio.sleep(0)
        return task


def cut(data: bytes, at: list[float]) -> list[bytes]:
    """`data` in pieces, cut at these shares of its length."""
    places = sorted({0, len(data), *(int(share * len(data)) for share in at)})
    return [data[a:b] for a, b in pairwise(places)]


shares = st.lists(st.floats(0, 1, exclude_max=True), max_size=12)


@given(one=responses, at=shares, pauses=st.booleans())
async def test_any_split_gives_the_same_answer(one: Response, at: list[float], pauses: bool) -> None:
    line = Line()
    task = await line.play(cut(one.raw, at), pauses=pauses)
    if one.framing in ("close", "old"):
        line.transport.hang_up()
    answer = await task
    assert line.got == one.body
    assert (answer.status, answer.headers["x-one"]) == (200, "a, b")
    assert "x-trailer" not in answer.headers
    assert "link" not in answer.headers
    assert line.connection.usable is (one.framing in ("chunked", "length"))
    assert bytes(line.transport.written) == _REQUEST + b"{}"


@given(one=responses)
async def test_every_byte_by_itself(one: Response) -> None:
    line = Line()
    task = await line.play([one.raw[i : i + 1] for i in range(len(one.raw))], pauses=False)
    line.transport.hang_up()
    await task
    assert line.got == one.body


@given(one=responses, share=st.floats(0, 1, exclude_max=True), at=shares, reset=st.booleans())
async def test_a_part_is_never_taken_for_the_whole(one: Response, share: float, at: list[float], reset: bool) -> None:
    cut_at = int(share * len(one.raw))
    line = Line()
    task = await line.play(cut(one.raw[:cut_at], at), pauses=True)
    line.transport.hang_up(ConnectionResetError() if reset else None)
    if cut_at < one.body_at:
        with pytest.raises(EngineUnreachable):
            await task
    elif one.framing in ("close", "old") and not reset:
        await task  # its end was announced to be the connection's
    else:
        with pytest.raises(EngineLost):
            await task
    assert one.body.startswith(line.got)


@settings(max_examples=300)
@given(junk=st.binary(max_size=80), at=shares, valid_first=st.booleans())
async def test_junk_is_an_error_and_nothing_worse(junk: bytes, at: list[float], valid_first: bool) -> None:
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + junk if valid_first else junk
    line = Line()
    task = await line.play(cut(raw, at) if raw else [], pauses=True)
    line.transport.hang_up()
    with suppress(EngineLost if valid_first else EngineError):
        await task


async def test_all_that_has_come_is_handed_over_at_once() -> None:
    line = Line()
    one = response([b"a", b"b", b"c"], "chunked")
    sending = asyncio.create_task(line.connection.send(_REQUEST, b""))
    await asyncio.sleep(0)
    line.transport.feed(one.raw)
    chunks = (await sending).chunks()
    assert await anext(chunks) == b"abc"
    with pytest.raises(StopAsyncIteration):
        await anext(chunks)


async def test_a_slow_consumer_stops_the_reading() -> None:
    line = Line()
    sending = asyncio.create_task(line.connection.send(_REQUEST, b""))
    await asyncio.sleep(0)
    line.transport.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + bytes(300_000))
    answer = await sending
    assert line.transport.reading is False
    chunks = answer.chunks()
    assert len(await anext(chunks)) == 300_000
    line.transport.feed(bytes(700_000))
    assert bool(line.transport.reading), "a whole answer leaves the connection ready for the next"
    assert len(await anext(chunks)) == 700_000


async def test_what_follows_an_answer_spoils_the_connection_and_not_the_answer() -> None:
    for framing, after in (("length", b"HTTP/1.1 200 OK\r\n\r\n"), ("chunked", b"junk"), ("length", b"\x00")):
        line = Line()
        one = response([b"body"], framing)
        task = await line.play([one.raw + after], pauses=False)
        await task
        assert line.got == b"body"
        assert not line.connection.usable


async def test_bytes_that_nobody_asked_for_close_an_idle_connection() -> None:
    line = Line()
    await (await line.play([response([], "length").raw], pauses=True))
    assert line.connection.usable
    line.transport.feed(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert not line.connection.usable


async def test_headers_have_a_limit() -> None:
    for endless in (b"X: " + b"y" * 70_000, b"X: y\r\n" * 12_000, b"HTTP/1.1 100 Continue\r\n\r\n" * 3000):
        line = Line()
        start = b"" if endless.startswith(b"HTTP") else b"HTTP/1.1 200 OK\r\n"
        task = await line.play(cut(start + endless, [0.25, 0.5, 0.75]), pauses=True)
        with pytest.raises(EngineError, match="not HTTP"):
            await task


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nBad Name: 3\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"<html>",
    ],
)
async def test_what_is_not_an_answer(raw: bytes) -> None:
    line = Line()
    task = await line.play([raw], pauses=False)
    with pytest.raises(EngineError) as caught:
        await task
    assert type(caught.value) is EngineError
    assert caught.value.detail


async def test_a_status_without_a_body_ends_at_its_headers() -> None:
    for status in (b"204 No Content", b"304 Not Modified"):
        line = Line()
        answer = await (await line.play([b"HTTP/1.1 " + status + b"\r\n\r\n"], pauses=False))
        assert answer.status in (204, 304)
        assert line.connection.usable


async def test_leaving_an_unfinished_answer_closes_its_connection() -> None:
    line = Line()
    sending = asyncio.create_task(line.connection.send(_REQUEST, b""))
    await asyncio.sleep(0)
    line.transport.feed(response([b"x" * 10], "length").raw[:-5])
    answer = await sending
    await answer.aclose()
    await answer.aclose()
    assert not line.connection.usable
    chunks = answer.chunks()
    assert await anext(chunks) == b"x" * 5
    with pytest.raises(EngineLost):
        await anext(chunks)


async def test_closing_a_finished_answer_keeps_the_connection() -> None:
    line = Line()
    answer = await (await line.play([response([b"x"], "chunked").raw], pauses=True))
    await answer.aclose()
    assert line.connection.usable


@pytest.mark.parametrize("after_head", [False, True])
async def test_cancelling_closes_the_connection(after_head: bool) -> None:
    line = Line()
    one = response([b"x" * 10], "length")
    task = await line.play([one.raw[: one.body_at + 3]] if after_head else [], pauses=True)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert not line.connection.usable

"""A client that leaves stops the engine's work within a second."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from terascope.testing.between import Between

pytestmark = pytest.mark.asyncio(loop_scope="module")


SOON_S = 5.0
"""The promise is a second; on a busy machine it is not always the turn of a process."""


@asynccontextmanager
async def freed(through: Between) -> AsyncIterator[None]:
    """On leaving: soon the engine has seen its client leave, and is idle."""
    before = through.engine.left
    yield
    async with asyncio.timeout(SOON_S):
        await through.engine.until(lambda engine: (engine.left, engine.running) == (before + 1, 0))


async def last_record(through: Between) -> dict[str, object]:
    """The newest run record; a client that left before any byte has no id to ask by."""
    runs: list[dict[str, object]] = (await through.http.get("/admin/v1/runs", params={"limit": 1})).json()["data"]
    return runs[0]


@pytest.mark.parametrize("fault", ["stall after=4", "slow gap=0.01 count=100000", "words count=100000"])
async def test_leaving_in_mid_stream_frees_the_engine(through: Between, fault: str) -> None:
    """NVIDIA Dynamo's feature matrix: cancellation does not free the engine's resources."""
    async with freed(through), through.opened(fault) as answer:
        await anext(answer.aiter_raw())
    record = await through.record(answer.headers["x-request-id"])
    assert (record["outcome"], record["error"], record["status"]) == ("cancelled", "client_left", 499)
    assert record["completion_tokens"] > 0
    assert record["parameters"]["usage"] == "estimated"


@pytest.mark.parametrize(("stream", "size"), [(True, 10), (False, 10), (False, 70_000), (False, 1_000_000)])
async def test_leaving_before_any_byte_frees_the_engine(through: Between, stream: bool, size: int) -> None:
    """Nothing has been sent yet, so nothing but the connection's end tells that the client has left.

    Whatever the size of what it had sent: while a large body is read, the server takes nothing more.
    """
    async with freed(through):
        asked = asyncio.create_task(through.ask("silent", stream=stream, more="x" * size))
        await through.engine.until(lambda engine: engine.running == 1)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
    record = await last_record(through)
    assert (record["outcome"], record["error"], record["attempts"]) == ("cancelled", "client_left", 1)


async def test_a_connection_that_is_reset_frees_the_engine(through: Between) -> None:
    """A client that crashed does not say goodbye."""
    async with freed(through):
        reader, writer = await _send(through, {"model": "m", "stream": True, "fault": "stall", "messages": []})
        await reader.readuntil(b"data: ")
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()
    assert (await last_record(through))["outcome"] == "cancelled"


async def test_leaving_in_mid_request_asks_no_engine(through: Between) -> None:
    """Half a request is none."""
    before = len(through.engine.received)
    _, writer = await _send(through, {"model": "m", "messages": []}, more=10)
    writer.close()
    await writer.wait_closed()
    async with asyncio.timeout(SOON_S):
        while (await last_record(through))["attempts"] != 0:
            pass
    record = await last_record(through)
    assert (record["outcome"], record["error"], record["model"]) == ("cancelled", "client_left", "")
    assert len(through.engine.received) == before


async def test_others_go_on(through: Between) -> None:
    """Whoever leaves takes nothing from anyone else."""
    stays = asyncio.create_task(through.ask("hold after=2"))
    await through.engine.until(lambda engine: engine.running == 1)
    before = through.engine.left
    async with through.opened("stall") as answer:
        await anext(answer.aiter_raw())
    async with asyncio.timeout(SOON_S):
        await through.engine.until(lambda engine: engine.left == before + 1)
    through.engine.release()
    assert (await stays).done


async def test_requests_that_are_sent_ahead_are_answered_in_turn(through: Between) -> None:
    """Also behind a large one, while which the server had stopped reading."""
    small: dict[str, object] = {"model": "m", "messages": [{"role": "user", "content": "a"}]}
    large = small | {"more": "x" * 300_000}
    reader, writer = await _send(through, large, kept=True)
    for body in (large, small):
        writer.write(_request(through, body, kept=body is large))
    answers = await reader.read()
    writer.close()
    assert answers.count(b"HTTP/1.1 200 OK") == 3
    assert answers.count(b'"finish_reason":"stop"') == 3


async def test_a_client_that_does_not_read_holds_up_only_itself(impatient: Between) -> None:
    """A slow client is waited for, and its engine with it; one that takes nothing at all is told why it ended."""
    body = {"model": "m", "stream": True, "fault": "huge size=500000", "n": 30, "messages": []}
    reader, writer = await _send(impatient, body, window=1 << 12)
    head = await reader.readuntil(b"\r\n\r\n")
    async with asyncio.timeout(5):
        assert (await impatient.ask()).done
        await impatient.engine.until(lambda engine: engine.running == 0)
    rest = await reader.read()
    writer.close()
    assert b"the client took nothing" in rest
    assert b"[DONE]" not in rest
    request_id = head.decode().partition("x-request-id: ")[2].split()[0]
    assert (await impatient.record(request_id))["error"] == "idle_timeout"


async def _send(
    through: Between, body: dict[str, object], *, more: int = 0, window: int = 1 << 16, kept: bool = False
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a request over a bare socket; its length says `more` than is sent."""
    host, port = through.gateway.url.removeprefix("http://").split(":")
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=raw, limit=window)
    writer.write(_request(through, body, more=more, kept=kept))
    return reader, writer


def _request(through: Between, body: dict[str, object], *, more: int = 0, kept: bool = False) -> bytes:
    """A request after which the connection is closed, unless it is `kept`."""
    data = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nConnection: {'keep-alive' if kept else 'close'}\r\n"
    head += f"Content-Length: {len(data) + more}\r\nAuthorization: Bearer {through.gateway.key}\r\n\r\n"
    return head.encode() + data

"""The job's side of a launch: who is let in, what is copied, and what is left at the end."""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from terascope.core.errors import EngineUnreachable
from terascope.engines.upstream import HttpClient
from terascope.fleet.launchers import guard, node
from terascope.testing.programs import pipe_in

_SECRET = "a secret of one replica"
_ECHO = """
import os, signal, socket, sys, threading
signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
def serve(connection):
    with connection:
        while data := connection.recv(1 << 16):
            body = b"%d bytes" % len(data)
            connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(body), body))
    with open(sys.argv[2], "a") as pipe: print("left", file=pipe)
while True:
    threading.Thread(target=serve, args=listener.accept()[:1]).start()
"""


@asynccontextmanager
async def running(directory: Path, *program: str, pipe: str = os.devnull) -> AsyncIterator[asyncio.subprocess.Process]:
    """A node's program in `directory`, whose socket is `place/x.sock` below it."""
    for module in (guard, node):
        shutil.copy(str(module.__file__), directory)
    listen = str(directory / "place" / "x.sock")
    words = (str(directory / "node.py"), str(directory), listen, "127.0.0.1", str(directory / "log"))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-IS", *words, *(program or (sys.executable, "-ISc", _ECHO, listen, pipe)),
        env={**os.environ, "TERASCOPE_REPLICA_SECRET": _SECRET},
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


def client(directory: Path, secret: str = _SECRET) -> HttpClient:
    return HttpClient(f"at:{directory / 'address'}", headers=[("Authorization", f"Bearer {secret}")])


async def answered(one: HttpClient) -> tuple[int, bytes]:
    """The first answer that is not that of a node which is not there yet; every try is a connection of its own."""
    while True:
        try:
            answer = await one.request("POST", "/v1/x", b"{}")
        except EngineUnreachable:
            await asyncio.sleep(0)
            continue
        body = await answer.read(1 << 16)
        if answer.status != 503:
            return answer.status, body


async def test_who_names_the_secret_is_let_in(tmp_path: Path) -> None:
    async with running(tmp_path):
        one, other = client(tmp_path), client(tmp_path, "another")
        status, body = await answered(one)
        assert (status, body.endswith(b" bytes")) == (200, True)
        status, body = await answered(other)
        assert status == 401
        assert b"secret of this replica" in body
        assert (await answered(one))[0] == 200  # on the connection that is known
        await one.aclose()
        await other.aclose()


@pytest.mark.parametrize(
    "sent", [b"GET / HTTP/1.1\r\n\r\n", b"\r\n\r\n", b"Authorization: Bearer \r\n\r\n", b"x" * 70_000]
)
async def test_strangers_are_not(tmp_path: Path, sent: bytes) -> None:
    async with running(tmp_path):
        one = client(tmp_path)
        await answered(one)
        host, _, port = (tmp_path / "address").read_text().strip().rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(sent)
        answer = await reader.read()
        assert answer == b"" or answer.startswith(b"HTTP/1.1 401 ")
        writer.close()
        await one.aclose()


async def test_who_leaves_is_seen_to_leave_by_the_program(tmp_path: Path) -> None:
    with pipe_in(tmp_path) as pipe:
        async with running(tmp_path, pipe=str(pipe.path)):
            one = client(tmp_path)
            await answered(one)
            await one.aclose()
            async with asyncio.timeout(10):
                assert await pipe.line() == ["left"]


async def test_the_place_is_ours_alone_and_gone_at_the_end(tmp_path: Path) -> None:
    async with running(tmp_path) as process:
        one = client(tmp_path)
        await answered(one)
        await one.aclose()
        assert (tmp_path / "place").stat().st_mode & 0o777 == 0o700
        (tmp_path / "grace").write_text("5\n")
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 7
    assert not (tmp_path / "place").exists()
    assert (tmp_path / "ended").read_text() == "7\n"


async def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    async with running(tmp_path, "/nowhere/at-all") as process:
        assert await process.wait() == 127
    assert (tmp_path / "ended").read_text() == "127\n"


async def test_an_address_that_is_not_there_yet_or_says_nothing(tmp_path: Path) -> None:
    one = client(tmp_path)
    with pytest.raises(EngineUnreachable, match="waits in the queue"):
        await one.request("GET", "/health")
    (tmp_path / "address").write_text("nonsense")
    with pytest.raises(EngineUnreachable):
        await one.request("GET", "/health")
    await one.aclose()

"""The end of an answer waits for its record."""

import json
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from terascope.testing.gateway import Served, running_gateway


@pytest.mark.parametrize("stream", [True, False])
def test_the_end_is_held_until_the_record_is_durable(stream: bool) -> None:
    """While nothing can be written, neither `[DONE]` nor a whole answer goes out."""
    with (
        running_gateway() as served,
        closing(_store(served)) as rows,
        socket.create_connection(_address(served)) as client,
    ):
        rows.execute("begin immediate")
        client.sendall(_request(served, stream=stream))
        client.settimeout(0.5)
        early = b"".join(_pieces(client))
        assert b"[DONE]" not in early
        assert b"completion_tokens" not in early
        rows.execute("rollback")
        client.settimeout(None)
        answer = early + b"".join(_pieces(client))
        assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n") if stream else b"completion_tokens" in answer
        request_id = answer.partition(b"x-request-id: ")[2].split()[0].decode()
        found = rows.execute("select outcome from runs where id = ?", (request_id,)).fetchall()
        assert found == [("completed",)]


def _request(served: Served, *, stream: bool) -> bytes:
    body = json.dumps({"model": "echo", "stream": stream, "messages": [{"role": "user", "content": "hi"}]})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {served.key}\r\n"
    return f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def _pieces(client: socket.socket) -> Iterator[bytes]:
    """What comes until the connection ends or nothing comes for as long as the socket waits."""
    with suppress(TimeoutError):
        while data := client.recv(1 << 16):
            yield data


def _address(served: Served) -> tuple[str, int]:
    host, port = served.url.removeprefix("http://").split(":")
    return host, int(port)


def _store(served: Served) -> sqlite3.Connection:
    """The store, as another process sees it."""
    return sqlite3.connect(served.data_dir / "terascope.db", isolation_level=None)

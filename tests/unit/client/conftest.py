"""A whole gateway, and a bare socket that answers what a test says."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from terascope.core.config import Config, DeploymentConfig
from terascope.testing.gateway import Served, running_gateway

_SLOW = DeploymentConfig(model="slow", engine="echo", launcher="inprocess", options={"delay_ms": "50"})
_FAST = DeploymentConfig(model="echo", engine="echo", launcher="inprocess")


@pytest.fixture(scope="module")
def gateway() -> Iterator[Served]:
    """A gateway that serves `echo`, and `slow` that takes 50 ms for each token."""
    with running_gateway(Config(deployments=[_FAST, _SLOW])) as served:
        yield served


@contextmanager
def _answering(answer: bytes) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_answer_once, args=(server, answer))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            thread.join()


def _answer_once(server: socket.socket, answer: bytes) -> None:
    """Read one whole request, write `answer`, close: closing with something unread would reset the connection."""
    connection, _ = server.accept()
    with connection, connection.makefile("rb") as request:
        length = 0
        while (line := request.readline()).strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        request.read(length)
        connection.sendall(answer)


@pytest.fixture
def answering() -> Iterator[Callable[[bytes], str]]:
    """Makes a server that gives its first client these bytes and closes; returns its URL."""
    with ExitStack() as stack:
        yield lambda answer: stack.enter_context(_answering(answer))

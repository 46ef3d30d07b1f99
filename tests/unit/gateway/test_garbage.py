"""A request that is over leaves nothing that only the garbage collector would find."""

import gc
from collections.abc import Iterator

import httpx
import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

_ASKED = {"model": "echo", "messages": [{"role": "user", "content": "hello there"}]}
_TIMES = 20


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Nobody collects garbage meanwhile."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _requests() -> int:
    """How many requests there are, in this process, in which the gateway runs."""
    # Not isinstance: it asks every object for its __class__, and other tests' lazy ones warn or load at that.
    return sum(type(one) is RequestResponseCycle for one in gc.get_objects())


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize(
    ("more", "status"), [({}, 200), ({"stream": True}, 200), ({"model": "nobody"}, 404), ({"messages": 1}, 400)]
)
def test_a_request_that_is_over_is_gone(http: httpx.Client, more: dict[str, object], status: int) -> None:
    for _ in range(_TIMES):
        assert http.post("/v1/chat/completions", json=_ASKED | more).status_code == status
    assert _requests() <= 2  # the connection's last, and that of one that is about to be closed

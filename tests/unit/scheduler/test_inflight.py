"""How many requests an engine gets at once, against an engine with a queue of its own."""

import heapq

import pytest

from terascope.core.projects import Qos
from terascope.scheduler.inflight import InFlightLimit


def test_an_engine_that_says_how_many_it_runs_gets_a_few_more() -> None:
    limit = InFlightLimit(32, extra=8)
    assert limit.room(32, Qos.BATCH) == 2  # so that it need not wait for us
    assert limit.room(34, Qos.BATCH) == 0
    assert limit.room(34, Qos.INTERACTIVE) == 8
    assert limit.room(50, Qos.URGENT) == 0
    for _ in range(100):
        limit.first_byte(100.0, 34)
    assert limit.value == 34
    assert InFlightLimit(1).value == 2


def saturated(slots: int, requests: int, *, service_s: float = 1.0) -> InFlightLimit:
    """Keep an engine with `slots` places and a queue full to the limit, in simulated time."""
    limit, now, sent = InFlightLimit(), 0.0, 0
    places = [0.0] * slots
    ends: list[float] = []
    while sent < requests:
        while ends and ends[0] <= now:
            heapq.heappop(ends)
        if limit.room(len(ends), Qos.BATCH):
            begins = max(now, heapq.heappop(places))
            heapq.heappush(places, begins + service_s)
            heapq.heappush(ends, begins + service_s)
            limit.first_byte(begins - now + 0.05, len(ends))
            sent += 1
        else:
            now = ends[0]
    return limit


@pytest.mark.parametrize("slots", [4, 16, 64, 256])
def test_the_engines_queue_becomes_shallow(slots: int) -> None:
    limit = saturated(slots, 20_000)
    assert 0.75 * slots <= limit.value <= 1.6 * slots + 4


def test_an_engine_that_takes_all_gets_more_and_more() -> None:
    assert saturated(1 << 14, 60_000, service_s=0.5).value > 4096


def test_what_is_not_asked_for_is_not_raised() -> None:
    limit = InFlightLimit()
    before = limit.value
    for _ in range(1000):
        limit.first_byte(0.05, 3)
    assert limit.value == before

"""What projects have used, fading."""

import math

import pytest

from terascope.scheduler.usage import Usage
from terascope.testing.clock import ManualClock

WEEK = 7 * 86_400.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def test_half_of_it_counts_after_a_half_life(clock: ManualClock) -> None:
    usage = Usage(WEEK, clock.monotonic)
    usage.add("a", 1000)
    assert usage.used("a") == 1000
    clock.advance(WEEK)
    assert usage.used("a") == pytest.approx(500)
    usage.add("a", 1000)
    clock.advance(WEEK)
    assert usage.used("a") == pytest.approx(750)
    assert usage.used("b") == 0


def test_it_is_compared_by_shares(clock: ManualClock) -> None:
    usage = Usage(WEEK, clock.monotonic)
    usage.set_shares("large", 4)
    usage.add("large", 400)
    usage.add("small", 200)
    assert [usage.per_share()(name) for name in ("large", "small", "new")] == [100, 200, 0]
    assert (usage.shares("large"), usage.shares("small")) == (4, 1)


def test_what_is_given_back_is_not_used(clock: ManualClock) -> None:
    usage = Usage(WEEK, clock.monotonic)
    usage.add("a", 100)
    usage.add("a", -300)
    assert usage.used("a") == 0
    usage.add("a", 10)
    assert usage.used("a") == 10


def test_what_has_faded_is_forgotten(clock: ManualClock) -> None:
    usage = Usage(60.0, clock.monotonic)
    usage.add("a", 100)
    clock.advance(3600.0)
    assert usage.used("a") == 0
    assert usage._used == {}


def test_a_clock_that_jumps_back_gives_nothing() -> None:
    now = [1000.0]
    usage = Usage(60.0, lambda: now[0])
    usage.add("a", 100)
    now[0] = 500.0
    assert usage.used("a") == 100
    now[0] = 1060.0
    assert usage.used("a") == pytest.approx(50)


def test_nothing_fades_without_end(clock: ManualClock) -> None:
    usage = Usage(math.inf, clock.monotonic)
    usage.add("a", 100)
    clock.advance(1e9)
    assert usage.used("a") == 100

"""Limits by key, project and QOS, in simulated time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.access.limits import Bucket, Limits, _duration
from terascope.access.principal import Grant, Principal
from terascope.core.config import LimitConfig, LimitsConfig
from terascope.core.errors import RateLimited
from terascope.core.models import Mode
from terascope.core.projects import Qos
from terascope.testing.clock import ManualClock


def grant(key: str = "key_1", project: str = "climate", qos: Qos = Qos.INTERACTIVE) -> Grant:
    return Grant(Principal(key, "ada", frozenset(), "ada", project), Mode.QUERY, "m@1", project, qos)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def test_without_limits_nothing_is_kept(clock: ManualClock) -> None:
    limits = Limits(LimitsConfig(), clock)
    for _ in range(1000):
        assert limits.enter(grant(), 10**9).headers == {}
    assert not limits._known


def test_requests_a_minute(clock: ManualClock) -> None:
    limits = Limits(LimitsConfig(key=LimitConfig(requests_per_minute=60)), clock)
    headers = [limits.enter(grant(), 0).headers["x-ratelimit-remaining-requests"] for _ in range(60)]
    assert headers == [str(left) for left in range(59, -1, -1)]
    with pytest.raises(RateLimited, match="this key may have 60 requests a minute; come back in 1 s") as full:
        limits.enter(grant(), 0)
    assert full.value.retry_after == pytest.approx(1.0)
    assert full.value.headers == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1m0.000s",
    }
    limits.enter(grant("key_2"), 0)  # another key has its own
    clock.advance(1.0)
    limits.enter(grant(), 0)
    clock.advance(1e6)  # what is not used is not saved up
    for _ in range(60):
        limits.enter(grant(), 0)
    with pytest.raises(RateLimited):
        limits.enter(grant(), 0)


def test_tokens_are_those_that_came_out(clock: ManualClock) -> None:
    limits = Limits(LimitsConfig(project=LimitConfig(tokens_per_minute=600)), clock)
    one = limits.enter(grant(), 100)
    assert one.headers["x-ratelimit-remaining-tokens"] == "500"
    limits.leave(one, 900)  # 300 in debt
    limits.leave(one, 900)  # once is enough
    with pytest.raises(RateLimited, match="the project climate may have 600 tokens a minute") as full:
        limits.enter(grant("key_2"), 100)
    assert full.value.retry_after == pytest.approx(40.0)
    clock.advance(40)
    limits.leave(limits.enter(grant(), 100), 0)
    assert limits.enter(grant(), 0).headers["x-ratelimit-remaining-tokens"] == "100"
    clock.advance(60)
    limits.enter(grant(), 5000)  # larger than a minute's worth: when nothing else was asked
    clock.advance(1)
    with pytest.raises(RateLimited):
        limits.enter(grant(), 1)


def test_requests_at_once(clock: ManualClock) -> None:
    limits = Limits(LimitsConfig(qos={"batch": LimitConfig(concurrent=2)}), clock)
    first, _ = limits.enter(grant(qos=Qos.BATCH), 1), limits.enter(grant("key_2", "ocean", Qos.BATCH), 1)
    with pytest.raises(RateLimited, match="the QOS batch has 2 requests running, its most") as full:
        limits.enter(grant(qos=Qos.BATCH), 1)
    assert full.value.retry_after
    limits.enter(grant(qos=Qos.URGENT), 1)
    limits.leave(first, 1)
    limits.enter(grant(qos=Qos.BATCH), 1)


def test_who_is_refused_by_one_limit_counts_in_none(clock: ManualClock) -> None:
    config = LimitsConfig(key=LimitConfig(requests_per_minute=5), project=LimitConfig(concurrent=1))
    limits = Limits(config, clock)
    limits.enter(grant(), 0)
    for _ in range(10):
        with pytest.raises(RateLimited, match="the project climate"):
            limits.enter(grant(), 0)
    assert limits.enter(grant(project="ocean"), 0).headers["x-ratelimit-remaining-requests"] == "3"


def test_some_keys_and_projects_have_limits_of_their_own(clock: ManualClock) -> None:
    config = LimitsConfig(
        key=LimitConfig(requests_per_minute=1),
        keys={"key_vip": LimitConfig(requests_per_minute=2)},
        projects={"ocean": LimitConfig(concurrent=1)},
    )
    limits = Limits(config, clock)
    for _ in range(2):
        limits.enter(grant("key_vip"), 0)
    with pytest.raises(RateLimited, match="this key may have 2 requests a minute"):
        limits.enter(grant("key_vip"), 0)
    limits.enter(grant("key_2", "ocean"), 0)
    with pytest.raises(RateLimited, match="the project ocean has 1 requests running"):
        limits.enter(grant("key_3", "ocean"), 0)


@given(
    limit=st.integers(1, 1000),
    steps=st.lists(st.tuples(st.floats(0, 30), st.integers(0, 50)), max_size=60),
)
def test_a_bucket_never_gives_more_than_its_rate(limit: int, steps: list[tuple[float, int]]) -> None:
    now, taken, bucket = 0.0, 0, Bucket(limit, 0.0)
    for pause, amount in steps:
        now += pause
        amount = min(amount, limit)
        if bucket.wait(amount, now) <= 0:
            bucket.take(amount, now)
            taken += amount
        assert taken <= limit + now * limit / 60 + 1e-6
        assert 0 <= bucket.wait(limit, now) <= 60 + 1e-6


def test_a_clock_that_goes_back_gives_nothing(clock: ManualClock) -> None:
    bucket = Bucket(60, 100.0)
    bucket.take(60, 100.0)
    assert bucket.level(50.0) == 0
    assert bucket.level(101.0) == pytest.approx(1.0)


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0ms"), (0.25, "250ms"), (6, "6.000s"), (62.5, "1m2.500s")])
def test_how_times_are_written(seconds: float, shown: str) -> None:
    assert _duration(seconds) == shown

"""When a replica gets no more requests, and when it is tried again."""

from hypothesis import given
from hypothesis import strategies as st

from terascope.scheduler.breaker import MOST_LOST, Breaker


def _opened(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(MOST_LOST):
        assert breaker.admits(now, 100)
        breaker.failed(now)
    return breaker


def test_it_opens_after_losses_in_a_row() -> None:
    breaker = _opened()
    assert not breaker.closed
    assert not breaker.admits(0.9, 0)
    assert breaker.admits(1.0, 0)
    assert not breaker.admits(1.0, 1), "one tries at a time"


def test_an_answer_closes_it() -> None:
    breaker = _opened()
    breaker.succeeded()
    assert breaker.closed
    assert breaker.admits(0.0, 100)


def test_every_trial_that_fails_doubles_the_pause() -> None:
    breaker, now = _opened(), 0.0
    for pause in (1, 2, 4, 8, 16, 32, 60, 60):
        assert not breaker.admits(now + pause - 0.01, 0)
        now += pause
        assert breaker.admits(now, 0)
        breaker.failed(now)


def test_what_was_under_way_when_it_opened_changes_nothing() -> None:
    breaker = _opened()
    for _ in range(50):
        breaker.failed(0.5)
    assert breaker.admits(1.0, 0)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 100))))
def test_it_is_always_tried_again_within_a_minute(history: list[tuple[bool, float]]) -> None:
    breaker, now = Breaker(), 0.0
    for succeeded, passed in history:
        now += passed
        breaker.succeeded() if succeeded else breaker.failed(now)
        assert breaker.admits(now + 60.0, 0)
        assert not succeeded or breaker.closed

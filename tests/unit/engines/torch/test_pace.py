"""Guesses of how long work takes, from what was seen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.engines.torch.pace import Pace, WorkKind
from terascope.internals.limits import GRADIENT_SHARE, Cost

COST = Cost(prompt_tokens=100, output_tokens=10, gradient_tokens=50)


def test_nothing_is_said_of_what_was_never_seen() -> None:
    pace = Pace()
    assert pace.seconds(COST) is None
    assert pace.seconds(Cost()) == 0
    pace.step(200, 0, 1.0)
    assert pace.seconds(COST) is None  # how fast answers are made is not known yet
    assert pace.seconds(Cost(prompt_tokens=100)) == pytest.approx(0.5)


def test_each_kind_of_work_has_its_own_pace() -> None:
    pace = Pace()
    pace.step(150, 50, 1.0)  # made beside a prompt: computed as one
    pace.step(0, 4, 0.2)
    assert pace.seconds(COST) == pytest.approx(100 / 200 + 10 * 0.05 + 50 * GRADIENT_SHARE / 200)
    pace.saw(WorkKind.GOING_BACK, 10, 1.0)
    assert pace.seconds(COST) == pytest.approx(100 / 200 + 10 * 0.05 + 50 * 0.1)


def test_what_was_seen_last_counts_most() -> None:
    pace = Pace()
    for _ in range(100):
        pace.step(100, 0, 1.0)
    for _ in range(300):
        pace.step(1000, 0, 1.0)
    assert pace.seconds(Cost(prompt_tokens=1000)) == pytest.approx(1.0, rel=0.05)


@given(st.lists(st.tuples(st.integers(0, 1000), st.floats(0, 100)), max_size=50))
def test_a_pace_is_between_the_slowest_and_the_fastest_seen(steps: list[tuple[int, float]]) -> None:
    pace = Pace()
    for tokens, seconds in steps:
        pace.step(tokens, 0, seconds)
    seen = [seconds / tokens for tokens, seconds in steps if tokens and seconds]
    found = pace.seconds(Cost(prompt_tokens=1))
    if seen:
        assert found is not None
        assert min(seen) * 0.999 <= found <= max(seen) * 1.001
    else:
        assert found is None

"""Decayed usage, and the weights it leaves."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.scheduler.usage import LEAST, REFRESH_S, Usage

WEEK = 7 * 86_400.0


def test_half_of_it_counts_after_a_half_life() -> None:
    usage = Usage(WEEK, 0.0)
    usage.add("a", 1000, 0.0)
    assert usage.used("a", 0.0) == 1000
    assert usage.used("a", WEEK) == pytest.approx(500)
    usage.add("a", 1000, WEEK)
    assert usage.used("a", 2 * WEEK) == pytest.approx(750)
    assert usage.used("b", 2 * WEEK) == 0


def test_the_factor_is_that_of_slurm() -> None:
    usage = Usage(WEEK, 0.0)
    assert usage.weight("a", 0.0) == 1.0  # nothing was used
    usage.add("a", 500_000, 0.0)
    usage.add("b", 500_000, 0.0)
    assert usage.weight("a", REFRESH_S) == pytest.approx(0.5)  # just what it is entitled to
    usage.set_shares("a", 3)
    assert usage.weight("a", REFRESH_S) == pytest.approx(3 * math.exp2(-0.5 / 0.75))
    assert usage.weight("new", REFRESH_S) == 1.0


def test_weights_are_constant_between_refreshes() -> None:
    usage = Usage(WEEK, 0.0)
    usage.add("b", 100, 0.0)
    before = usage.weight("a", 0.0)
    usage.add("a", 1e9, 1.0)
    assert usage.weight("a", REFRESH_S - 1) == before
    assert usage.weight("a", REFRESH_S) < before
    usage.set_shares("a", 5)  # what an operator says holds at once
    assert usage.weight("a", REFRESH_S) > 2 * before


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 10**12), min_size=1), st.floats(0, 1e7))
def test_nobody_is_without_weight(used: dict[str, int], now: float) -> None:
    usage = Usage(WEEK, 0.0)
    for project, cost in used.items():
        usage.set_shares(project, 2)
        usage.add(project, cost, 0.0)
    for project in used:
        assert 2 * LEAST <= usage.weight(project, now) <= 2


def test_what_is_given_back_is_not_used() -> None:
    usage = Usage(WEEK, 0.0)
    usage.add("a", 100, 0.0)
    usage.add("a", -300, 0.0)
    assert usage.used("a", 0.0) == 0


def test_what_has_faded_is_forgotten() -> None:
    usage = Usage(60.0, 0.0)
    usage.add("a", 100, 0.0)
    assert usage.used("a", 3600.0) == 0
    assert usage._used == {}


def test_a_clock_that_stands_still_or_jumps_back_gives_nothing() -> None:
    usage = Usage(60.0, 1000.0)
    usage.add("a", 100, 1000.0)
    assert usage.used("a", 500.0) == 100
    assert usage.used("a", 1060.0) == pytest.approx(50)


def test_nothing_fades_without_end() -> None:
    usage = Usage(math.inf, 0.0)
    usage.add("a", 100, 0.0)
    assert usage.used("a", 1e9) == 100

"""How fast a model serves, and how long answers are."""

import pytest

from terascope.scheduler.pace import AnswerLength, Pace


def test_nothing_is_told_before_something_was_served() -> None:
    pace = Pace()
    assert pace.seconds(10) is None
    pace.began(0.0)
    assert pace.seconds(10) is None


def test_service_per_second_while_there_is_something_to_serve() -> None:
    pace = Pace()
    for number in range(100):
        pace.began(number * 10.0)
        pace.ended(number * 10.0 + 2.0)  # then eight seconds of nothing
        pace.served(50)
    assert pace.seconds(100) == pytest.approx(4.0, rel=0.05)


def test_requests_at_once_are_faster_together() -> None:
    pace = Pace()
    for number in range(50):
        for _ in range(10):
            pace.began(number * 2.0)
        for _ in range(10):
            pace.ended(number * 2.0 + 2.0)
            pace.served(50)
    assert pace.seconds(500) == pytest.approx(2.0, rel=0.05)


def test_a_change_shows_soon() -> None:
    pace = Pace()
    now = 0.0
    for cost in [100] * 200 + [10] * 600:
        pace.began(now)
        now += 1.0
        pace.ended(now)
        pace.served(cost)
    assert pace.seconds(10) == pytest.approx(1.0, rel=0.2)


def test_answers_are_expected_to_be_as_long_as_the_last_ones() -> None:
    lengths = AnswerLength()
    assert lengths.expected("a", None) == 128
    assert lengths.expected("a", 20) == 20
    for _ in range(100):
        lengths.seen("a", 1000)
    assert lengths.expected("a", None) == 1000
    lengths.seen("a", 0)
    assert lengths.expected("a", None) == 900
    assert lengths.expected("b", None) == 128


def test_only_so_many_projects_are_remembered() -> None:
    lengths = AnswerLength(most=3)
    for name in "abcd":
        lengths.seen(name, 5)
    assert lengths.expected("d", None) == 5
    assert lengths.expected("a", None) == 128

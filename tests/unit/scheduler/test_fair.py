"""Fair shares among projects, turns among users."""

import math
from collections import Counter
from collections.abc import Mapping
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.core.projects import Qos
from terascope.scheduler.fair import FairLines
from terascope.scheduler.ticket import Ticket
from terascope.scheduler.usage import Usage

PROJECTS = "abcde"


def ticket(project: str, user: str = "ada", cost: int = 100) -> Ticket:
    return Ticket(project, user, Qos.INTERACTIVE, cost)


def fair(shares: Mapping[str, int] | None = None, *, most: int = 10_000) -> FairLines:
    """Lines of projects that have used nothing; what they use counts for ever."""
    usage = Usage(math.inf, lambda: 0.0)
    for project, count in (shares or {}).items():
        usage.set_shares(project, count)
    return FairLines(usage, most=most)


def taken(lines: FairLines, most: int) -> list[Ticket]:
    """Give up to `most` turns."""
    found: list[Ticket] = []
    while lines and len(found) < most:
        found.append(next(lines.order()))
        lines.start(found[-1])
    return found


def test_users_take_turns_and_each_has_a_queue() -> None:
    lines = fair()
    asked = [ticket("a", user) for user in ("ada", "ada", "ada", "bob", "cyd", "bob")]
    for one in asked:
        lines.add(one)
    ada1, ada2, ada3, bob1, cyd, bob2 = asked
    assert list(lines.order()) == [ada1, bob1, cyd, ada2, bob2, ada3]
    assert taken(lines, 9) == [ada1, bob1, cyd, ada2, bob2, ada3]
    assert not lines


def test_who_comes_after_a_turn_waits_behind_other_users() -> None:
    lines = fair()
    first, second, third = ticket("a"), ticket("a"), ticket("a", "bob")
    lines.add(first)
    lines.add(second)
    lines.start(first)
    lines.add(third)
    assert taken(lines, 2) == [second, third]


def test_a_heavy_project_does_not_hold_up_a_light_one() -> None:
    lines = fair()
    for _ in range(1000):
        lines.add(ticket("heavy"))
    taken(lines, 500)
    light = ticket("light")
    lines.add(light)
    assert light in taken(lines, 2)


def test_who_comes_back_catches_up_with_half_of_the_service() -> None:
    """Nobody is shut out meanwhile: the other half is shared by who waits."""
    lines = fair()
    for _ in range(2000):
        lines.add(ticket("busy"))
    taken(lines, 999)
    for project in ("late", "other", "third"):
        for _ in range(2000):
            lines.add(ticket(project))
    lines._usage.add("other", 50_000)
    lines._usage.add("third", 50_000)
    turns = Counter(one.project for one in taken(lines, 400))
    assert turns["late"] == pytest.approx(250, abs=3)  # half of them, and a quarter of the other half
    assert turns["busy"] == pytest.approx(50, abs=3)
    taken(lines, 3600)
    assert lines._usage.used("busy") == pytest.approx(lines._usage.used("late"), rel=0.05)


def test_a_burst_is_not_forgotten_while_others_catch_up() -> None:
    """Who had a costly turn and then paused for a moment comes after those it was ahead of."""
    lines = fair()
    lines.add(ticket("a", cost=500))
    for _ in range(9):
        lines.add(ticket("b"))
    assert [one.project for one in taken(lines, 3)] == ["a", "b", "b"]
    again = ticket("a")
    lines.add(again)
    assert taken(lines, 9).index(again) in (3, 4)


def test_what_is_used_while_nobody_waits_counts_as_past_use_alone() -> None:
    lines = fair()
    for _ in range(100):
        lines.add(ticket("alone"))
        taken(lines, 1)
    for _ in range(50):
        lines.add(ticket("alone"))
        lines.add(ticket("new"))
    assert Counter(one.project for one in taken(lines, 20)) == {"alone": 5, "new": 15}


@given(
    st.dictionaries(st.sampled_from(PROJECTS), st.integers(1, 20), min_size=2),
    st.lists(st.integers(1, 1000), min_size=50, max_size=300),
)
def test_service_is_by_weight_to_within_the_largest_requests(weights: dict[str, int], costs: list[int]) -> None:
    """At every moment while all have something waiting, from the same beginning."""
    lines = fair(weights)
    given_to = dict.fromkeys(weights, 0.0)
    for project in weights:
        for cost in costs:
            lines.add(ticket(project, cost=cost))
    for _ in range(len(costs) // 2):
        [one] = taken(lines, 1)
        given_to[one.project] += one.expected / weights[one.project]
        for (first, more), (second, less) in product(weights.items(), repeat=2):
            bound = 2 * (max(costs) / more + max(costs) / less)  # a request in either half
            assert abs(given_to[first] - given_to[second]) <= bound + 1e-6
        if any(not any(lines.of(project)) for project in weights):
            return


@given(st.lists(st.tuples(st.sampled_from(PROJECTS), st.sampled_from(["ada", "bob"]), st.integers(1, 1000))))
def test_everyone_gets_a_turn_once(asked: list[tuple[str, str, int]]) -> None:
    lines = fair()
    tickets = [ticket(*one) for one in asked]
    for one in tickets:
        lines.add(one)
    assert len(lines) == len(tickets)
    assert lines.expected == sum(one.expected for one in tickets)
    assert set(lines.order()) == set(tickets)
    removed = tickets[::3]
    assert all(lines.remove(one) for one in removed)
    assert not any(lines.remove(one) for one in removed)
    found = taken(lines, len(tickets))
    assert sorted(map(id, found)) == sorted(id(one) for one in tickets if one not in removed)
    assert not lines
    assert lines.expected == 0


def test_costs_that_were_not_foreseen_count() -> None:
    """The token counter: who has long answers gets fewer turns."""
    lines = fair()
    for _ in range(200):
        lines.add(ticket("long", cost=100))
        lines.add(ticket("short", cost=100))
    turns: Counter[str] = Counter()
    for _ in range(110):
        [one] = taken(lines, 1)
        turns[one.project] += 1
        lines.charge(one, 1000 if one.project == "long" else 100)
        lines.charge(one, 1000 if one.project == "long" else 100)  # the same again changes nothing
    assert turns["short"] / turns["long"] == pytest.approx(10, rel=0.15)


def test_what_was_not_used_is_given_back() -> None:
    lines = fair()
    for _ in range(100):
        lines.add(ticket("failing"))
        lines.add(ticket("fine"))
    turns: Counter[str] = Counter()
    for _ in range(60):
        [one] = taken(lines, 1)
        turns[one.project] += 1
        if one.project == "failing":
            lines.charge(one, 50)
    assert turns["failing"] == pytest.approx(40, abs=2)


@given(
    st.lists(st.tuples(st.sampled_from(PROJECTS), st.integers(1, 100)), min_size=1, max_size=60),
    st.data(),
)
def test_the_estimate_of_what_comes_before_is_close(asked: list[tuple[str, int]], data: st.DataObject) -> None:
    lines = fair()
    tickets = [ticket(project, cost=cost) for project, cost in asked]
    for one in tickets:
        lines.add(one)
    mine = data.draw(st.sampled_from(tickets))
    told, served = lines.before(mine), 0
    while (one := taken(lines, 1)[0]) is not mine:
        served += one.expected
    assert abs(told - served) <= 100 * len(PROJECTS)  # a request of each project


def test_many_projects_that_come_and_go_are_not_kept() -> None:
    lines = fair(most=10)
    for number in range(1000):
        lines.add(ticket(f"p{number}", cost=1))
        taken(lines, 1)
    assert len(lines._lines) <= 21


def test_shares_may_change_while_requests_wait() -> None:
    lines = fair()
    for _ in range(1000):
        lines.add(ticket("a"))
        lines.add(ticket("b"))
    assert Counter(one.project for one in taken(lines, 100)) == {"a": 50, "b": 50}
    lines._usage.set_shares("a", 3)
    turns = Counter(one.project for one in taken(lines, 900))
    assert turns["a"] == pytest.approx(700, abs=4)  # 750 of the thousand, with those before

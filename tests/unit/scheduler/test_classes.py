"""Which class of service goes next."""

from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.core.projects import Qos
from terascope.scheduler.classes import Classes

FLOORS = {Qos.INTERACTIVE: 0.2, Qos.BATCH: 0.1}
waiting_classes = st.sets(st.sampled_from(list(Qos)), min_size=1)


def service(classes: Classes, waiting: set[Qos], costs: Mapping[Qos, int], turns: int) -> Counter[Qos]:
    given_to: Counter[Qos] = Counter()
    for _ in range(turns):
        qos = classes.order(waiting)[0]
        classes.served(qos, costs[qos], waiting)
        given_to[qos] += costs[qos]
    return given_to


@given(st.fixed_dictionaries(dict.fromkeys(Qos, st.integers(1, 500))))
def test_each_gets_its_floor_and_the_most_urgent_the_rest(costs: dict[Qos, int]) -> None:
    given_to = service(Classes(FLOORS), set(Qos), costs, 2000)
    total = given_to.total()
    slack = 2 * max(costs.values())
    for qos, floor in FLOORS.items():
        assert abs(given_to[qos] - floor * total) <= slack
    assert abs(given_to[Qos.URGENT] - 0.7 * total) <= 2 * slack


def test_without_floors_the_most_urgent_has_all() -> None:
    assert service(Classes({}), set(Qos), dict.fromkeys(Qos, 1), 50) == {Qos.URGENT: 50}


def test_who_is_alone_has_all_and_owes_nothing() -> None:
    classes = Classes(FLOORS)
    service(classes, {Qos.BATCH}, {Qos.BATCH: 100}, 1000)
    assert classes.order({Qos.BATCH, Qos.URGENT})[0] is Qos.URGENT
    given_to = service(classes, {Qos.BATCH, Qos.URGENT}, dict.fromkeys(Qos, 10), 100)
    assert given_to[Qos.BATCH] == 100


def test_who_stops_waiting_is_owed_nothing() -> None:
    classes = Classes({Qos.BATCH: 0.5})
    classes.served(Qos.URGENT, 1000, {Qos.URGENT, Qos.BATCH})
    assert classes.order({Qos.URGENT, Qos.BATCH})[0] is Qos.BATCH
    classes.served(Qos.URGENT, 1, {Qos.URGENT})
    assert classes.order({Qos.URGENT, Qos.BATCH})[0] is Qos.URGENT


@given(st.lists(st.tuples(waiting_classes, st.integers(1, 1000)), max_size=100))
def test_a_less_urgent_class_goes_first_only_when_it_is_owed(steps: list[tuple[set[Qos], int]]) -> None:
    classes, ranks = Classes(FLOORS), list(Qos)
    for waiting, cost in steps:
        chosen = classes.order(waiting)[0]
        inverted = any(ranks.index(one) < ranks.index(chosen) for one in waiting)
        assert not inverted or classes.owed.get(chosen, 0) > 0
        classes.served(chosen, cost, waiting)


@given(st.lists(st.tuples(waiting_classes, st.integers(1, 1000)), max_size=50))
def test_who_waits_alone_may_be_served_without_the_others_being_named(steps: list[tuple[set[Qos], int]]) -> None:
    classes, plainly = Classes(FLOORS), Classes(FLOORS)
    for waiting, cost in steps:
        chosen = plainly.order(waiting)[-1]
        plainly.served(chosen, cost, waiting)
        if len(waiting) == 1:
            classes.served_alone(chosen, cost)
        else:
            classes.served(chosen, cost, waiting)
        assert classes.order(list(Qos)) == plainly.order(list(Qos))
        assert {qos: owed for qos, owed in plainly.owed.items() if owed} == pytest.approx(
            {qos: owed for qos, owed in classes.owed.items() if owed}
        )

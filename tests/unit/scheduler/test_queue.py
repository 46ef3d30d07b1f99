"""The queue of one model: classes, fair shares, reservations, places."""

import math
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from terascope.core.projects import Qos
from terascope.scheduler.queue import ModelQueue
from terascope.scheduler.ticket import Ticket
from terascope.scheduler.usage import Usage

FLOORS = {Qos.INTERACTIVE: 0.2, Qos.BATCH: 0.1}


def queue() -> ModelQueue:
    return ModelQueue(FLOORS, Usage(math.inf, lambda: 0.0))


def ticket(project: str = "a", qos: Qos = Qos.INTERACTIVE, needs: str = "", cost: int = 10) -> Ticket:
    return Ticket(project, "ada", qos, cost, needs)


def free(places: int, extra: int = 0) -> dict[Qos, int]:
    return dict.fromkeys(Qos, places + extra) | {Qos.BATCH: places}


def test_nobody_goes_without_a_place() -> None:
    one = queue()
    one.add(ticket())
    assert one.next(lambda ticket: True, free(0), {}) is None
    assert one.next(lambda ticket: False, free(3), {}) is None
    assert one.next(lambda ticket: True, free(1), {}) is not None
    assert not one


def test_the_urgent_go_first() -> None:
    one = queue()
    batch, interactive, urgent = (ticket(qos=qos) for qos in (Qos.BATCH, Qos.INTERACTIVE, Qos.URGENT))
    for each in (batch, interactive, urgent):
        one.add(each)
    assert one.next(lambda ticket: True, free(9), {}) is urgent


def test_places_of_their_own_for_those_that_cannot_wait() -> None:
    one = queue()
    batch, interactive = ticket(qos=Qos.BATCH), ticket(qos=Qos.INTERACTIVE)
    one.add(batch)
    assert one.next(lambda ticket: True, free(0, extra=2), {}) is None
    one.add(interactive)
    assert one.next(lambda ticket: True, free(0, extra=2), {}) is interactive


def test_who_needs_what_is_busy_does_not_hold_up_others() -> None:
    one = queue()
    special, plain = ticket("a", needs="logprobs"), ticket("b")
    one.add(special)
    one.add(ticket("a", needs="logprobs"))
    one.add(plain)
    asked: list[Ticket] = []

    def fits(ticket: Ticket) -> bool:
        asked.append(ticket)
        return ticket.needs == ""

    assert one.next(fits, free(1), {}) is plain
    assert len(asked) == 2  # of equal needs one is asked


def test_a_reservation_keeps_places() -> None:
    one = queue()
    mine, others = [ticket("lab", Qos.BATCH) for _ in range(3)], [ticket("b", Qos.URGENT) for _ in range(5)]
    for each in (*others, *mine):
        one.add(each)
    reserved = {"lab": 2}
    assert [one.next(lambda ticket: True, free(4 - taken), reserved) for taken in range(2)] == mine[:2]
    assert one.next(lambda ticket: True, free(2), reserved) is others[0]  # beyond its slots it waits like others
    assert one.running("lab") == 2
    one.end(mine[0])
    assert one.next(lambda ticket: True, free(1), reserved) is mine[2]
    one.end(mine[1])
    assert one.next(lambda ticket: True, free(1), reserved) is None  # the last place is kept, though nobody uses it
    assert one.next(lambda ticket: True, free(1), {}) is others[1]


def test_what_comes_before() -> None:
    one = queue()
    urgent, mine = ticket("b", Qos.URGENT, cost=30), ticket("a", cost=10)
    for each in (urgent, ticket("a", cost=7), mine, ticket("a", Qos.BATCH, cost=1000)):
        one.add(each)
    assert one.before(mine) == pytest.approx(37)
    assert mine in one
    assert one.remove(mine)
    assert mine not in one


@dataclass
class Engine:
    """A server of so many places in simulated time: each step every running request has one token."""

    places: int
    running: dict[Ticket, int] = field(default_factory=dict)
    served: Counter[str] = field(default_factory=Counter)

    def step(self, one: ModelQueue) -> None:
        while (chosen := one.next(lambda ticket: True, free(self.places - len(self.running)), {})) is not None:
            self.running[chosen] = chosen.expected
        assert not one or len(self.running) == self.places
        for each in list(self.running):
            self.running[each] -= 1
            self.served[each.project] += 1
            if not self.running[each]:
                del self.running[each]
                one.end(each)


@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from(list(Qos)), st.integers(1, 30)), min_size=1, max_size=80
    ),
    st.integers(1, 5),
)
def test_no_place_is_idle_while_something_waits_and_all_is_served(
    asked: list[tuple[str, Qos, int]], places: int
) -> None:
    one, engine = queue(), Engine(places)
    for project, qos, cost in asked:
        one.add(ticket(project, qos, cost=cost))
    work = sum(cost for _, _, cost in asked)
    for _ in range(work):
        engine.step(one)
    assert not one
    assert sum(engine.served.values()) == work


def test_nobody_starves_below_a_flood_of_urgent_work() -> None:
    """Batch of the least project goes on, by its floor, while urgent requests keep coming."""
    one, engine = queue(), Engine(4)
    poor = [ticket("poor", Qos.BATCH, cost=5) for _ in range(10)]
    for each in poor:
        one.add(each)
    for step in range(2000):
        if len(one) < 100:
            for number in range(8):
                one.add(ticket(f"rich{number}", Qos.URGENT if step % 2 else Qos.INTERACTIVE, cost=10))
        engine.step(one)
    assert engine.served["poor"] == 50


class Queueing(RuleBasedStateMachine):
    """Requests come, leave, run and end in any order; nothing is lost, nothing is counted twice."""

    waiting: Bundle[Ticket] = Bundle("waiting")

    def __init__(self) -> None:
        super().__init__()
        self.queue = queue()
        self.there: set[Ticket] = set()
        self.running: list[Ticket] = []

    @rule(target=waiting, project=st.sampled_from("abc"), qos=st.sampled_from(list(Qos)), cost=st.integers(1, 50))
    def come(self, project: str, qos: Qos, cost: int) -> Ticket:
        one = ticket(project, qos, cost=cost)
        self.queue.add(one)
        self.there.add(one)
        return one

    @rule(one=consumes(waiting))
    def leave(self, one: Ticket) -> None:
        assert self.queue.remove(one) == (one in self.there)
        self.there.discard(one)

    @rule(places=st.integers(0, 3), reserved=st.dictionaries(st.sampled_from("abc"), st.integers(0, 3)))
    def run(self, places: int, reserved: dict[str, int]) -> None:
        kept = {name: slots - self.queue.running(name) for name, slots in reserved.items()}
        kept = {name: slots for name, slots in kept.items() if slots > 0}
        one = self.queue.next(lambda ticket: places > 0, free(places), reserved)
        if one is not None:
            assert one in self.there
            assert one.project in kept or places > sum(kept.values())
            self.there.discard(one)
            self.running.append(one)
        elif places > sum(kept.values()):
            assert not self.there

    @rule(cost=st.integers(0, 100), data=st.data())
    def end(self, cost: int, data: st.DataObject) -> None:
        if self.running:
            one = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
            self.queue.charge(one, cost)
            self.queue.end(one)

    @invariant()
    def all_are_counted(self) -> None:
        assert len(self.queue) == len(self.there)
        counts = Counter(one.project for one in self.running)
        assert all(self.queue.running(project) == counts[project] for project in "abc")


TestQueueing = Queueing.TestCase
TestQueueing.settings = settings(max_examples=50, stateful_step_count=40)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(Qos), st.integers(1, 99), st.integers(0, 99))))
def test_to_run_alone_is_to_wait_no_time(asked: list[tuple[str, Qos, int, int]]) -> None:
    waited, at_once = queue(), queue()
    for project, qos, expected, cost in asked:
        first, second = ticket(project, qos, cost=expected), ticket(project, qos, cost=expected)
        waited.add(first)
        assert waited.next(lambda ticket: True, free(1), {}) is first
        at_once.runs_alone(second, expected)
        at_once.begin(second)
        assert waited.running(project) == at_once.running(project)
        for one, mine in ((waited, first), (at_once, second)):
            one.charge(mine, cost)
        assert (first.catches_up, first.charged) == (second.catches_up, second.charged)
    assert turns(waited) == turns(at_once)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(Qos), st.integers(1, 99))))
def test_what_ran_alone_may_be_charged_together(asked: list[tuple[str, Qos, int]]) -> None:
    apart, together = queue(), queue()
    sums: Counter[tuple[str, Qos]] = Counter()
    for project, qos, cost in asked:
        sums[project, qos] += cost
        apart.ran_alone(project, qos, cost)
    for (project, qos), cost in sums.items():
        together.ran_alone(project, qos, cost)
    assert turns(apart) == turns(together)


def test_who_gets_a_second_turn_is_not_charged_twice() -> None:
    usage = Usage(math.inf, lambda: 0.0)
    one, mine = ModelQueue(FLOORS, usage), ticket(cost=10)
    one.add(mine)
    assert one.next(lambda ticket: True, free(1), {}) is mine
    one.end(mine)
    one.begin(mine)  # its first replica was lost
    one.charge(mine, 25)
    assert usage.used("a") == 25


def turns(one: ModelQueue) -> list[tuple[str, Qos]]:
    """Whose turns come when everybody waits."""
    for _ in range(3):
        for project in "abc":
            for qos in Qos:
                one.add(ticket(project, qos))
    return [(its.project, its.qos) for _ in range(27) if (its := one.next(lambda ticket: True, free(1), {}))]

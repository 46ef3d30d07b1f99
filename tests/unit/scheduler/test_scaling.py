"""How many replicas are wanted: simulated loads, with a clock that the test moves."""

from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from terascope.core.bounds import Bounds
from terascope.scheduler.scaling import PATIENCE_S, Load, Scaler

ELASTIC = Bounds(0, 4, idle_s=60.0)


@st.composite
def _bounds(draw: st.DrawFn) -> Bounds:
    most = draw(st.integers(1, 6))
    return Bounds(draw(st.integers(0, most)), most, draw(st.integers(0, most)), float(draw(st.integers(5, 60))))


@dataclass
class Site:
    """A deployment in simulated seconds: replicas take `start_s` to start, requests `work_s` each."""

    scaler: Scaler
    places: int
    start_s: int
    work_s: int
    reserved: int = 0
    now: int = 0
    since: list[int] = field(default_factory=list)  # when each replica was started
    running: list[int] = field(default_factory=list)  # when each request ends
    waiting: list[int] = field(default_factory=list)  # since when
    history: list[int] = field(default_factory=list)

    @property
    def ready(self) -> int:
        return sum(self.now - begun >= self.start_s for begun in self.since)

    def second(self, arrivals: int) -> None:
        """Let a second pass in which so many requests come."""
        self.running = [end for end in self.running if end > self.now]
        self.waiting += [self.now] * arrivals
        while self.waiting and len(self.running) < self.ready * self.places:
            self.waiting.pop(0)
            self.running.append(self.now + self.work_s)
        self._scale()
        self.now += 1

    def _scale(self) -> None:
        load = Load(
            len(self.running), len(self.waiting), self.now - min(self.waiting, default=self.now), self.places,
            self.reserved, len(self.since) - self.ready,
        )  # fmt: skip
        wanted = self.scaler.wanted(len(self.since), load, float(self.now))
        busy = ceil(len(self.running) / self.places)
        assert wanted >= min(busy, len(self.since)), "what is busy is not taken away"
        self.since = [*self.since[:wanted], *[self.now] * (wanted - len(self.since))]
        self.history.append(wanted)


@given(_bounds(), st.integers(1, 8), st.integers(0, 30), st.integers(1, 20), st.lists(st.integers(0, 12), max_size=150))
@settings(max_examples=150, deadline=None)
def test_whatever_comes(bounds: Bounds, places: int, start_s: int, work_s: int, arrivals: list[int]) -> None:
    """Bounds hold, a raise is not soon taken back, everything is served in the end, and then it comes to rest."""
    site = Site(Scaler(bounds), places, start_s, work_s)
    for count in arrivals:
        site.second(count)
    for _ in range(len(arrivals) * 12 * (work_s + 1) + start_s + 100):
        if not (site.waiting or site.running):
            break
        site.second(0)
    assert not site.waiting
    for _ in range(int(bounds.idle_s) + start_s + 2):
        site.second(0)
    assert site.history[-1] == bounds.rest
    assert all(bounds.least <= one <= bounds.most for one in site.history)
    _never_flaps(site.history, bounds.idle_s)


def _never_flaps(history: list[int], idle_s: float) -> None:
    steps = [(second, after - before) for second, (before, after) in enumerate(pairwise(history))]
    raised = -1e9
    for second, step in steps:
        if step > 0:
            raised = second
        elif step < 0:
            assert second - raised >= idle_s


@given(st.integers(1, 40), st.integers(1, 8))
def test_a_reservation_keeps_its_replicas_up(reserved: int, places: int) -> None:
    site = Site(Scaler(ELASTIC), places, 3, 1, reserved)
    for _ in range(200):
        site.second(0)
    assert site.history[-1] == min(4, ceil(reserved / places))


def test_a_steady_load_below_the_places_changes_nothing() -> None:
    """Two thirds of what one replica takes: nothing waits, nothing is started or ended for hours."""
    site = Site(Scaler(Bounds(0, 4, idle_s=60.0)), 30, 10, 10)
    for _ in range(3600):
        site.second(2)
    assert set(site.history[30:]) == {1}


@pytest.mark.parametrize(
    ("kept", "load", "wanted"),
    [
        (0, Load(), 0),
        (0, Load(waiting=1), 1),  # whatever a replica takes
        (0, Load(waiting=100), 1),  # it is not known yet
        (0, Load(waiting=20, places=8), 3),
        (1, Load(running=8, waiting=1, waited_s=1.0, places=8), 1),  # a moment's wait
        (1, Load(running=8, waiting=1, waited_s=PATIENCE_S, places=8), 2),
        (1, Load(running=8, waiting=8, places=8), 2),  # as many wait as run
        (2, Load(running=8, waiting=8, places=8), 2),  # the second is on its way
        (3, Load(running=24, waiting=800, places=8), 4),
        (0, Load(reserved=9, places=8), 2),
        (0, Load(reserved=9), 1),
    ],
)
def test_reasons_for_more(kept: int, load: Load, wanted: int) -> None:
    assert Scaler(ELASTIC).wanted(kept, load, 0.0) == wanted


def test_hot_replicas_stand_by() -> None:
    scaler = Scaler(Bounds(0, 4, hot=1))
    assert scaler.wanted(0, Load(), 0.0) == 1
    assert scaler.wanted(1, Load(running=1, places=8), 1.0) == 2


def test_what_never_was_ready_is_not_idle() -> None:
    """A client that left, a start that takes longer than the idle time: it is not begun anew for the next client."""
    scaler = Scaler(ELASTIC)
    assert scaler.wanted(0, Load(waiting=1), 0.0) == 1
    for second in range(1, 500):
        assert scaler.wanted(1, Load(starting=1), float(second)) == 1
    assert scaler.wanted(1, Load(), 500.0) == 1
    assert scaler.wanted(1, Load(), 560.0) == 0

"""The decision, walked over everything that can be seen."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from terascope.core.states import REPLICA_TRANSITIONS, ReplicaStatus, ReplicaTarget
from terascope.fleet.launchers.contract import Observation, Sight
from terascope.fleet.reconciler import REST, Action, Kind, Limits, Seen, backoff_s, next_step
from terascope.store.replicas import ReplicaRow

repeatable = settings(derandomize=True, deadline=None)
LIMITS = Limits()
GONE = Observation(Sight.GONE, 1, "ended with exit code 1")
KNOWN = Observation(Sight.KNOWN)
UNKNOWN = Observation(Sight.UNKNOWN)

seconds = st.sampled_from([0.0, 1.0, 60.0, 1800.0, 3600.0]) | st.floats(0, 1e5)
sights = st.builds(
    Seen,
    program=st.sampled_from([None, KNOWN, UNKNOWN, GONE]),
    answers=st.booleans(),
    verdict=st.sampled_from([None, True, False]),
    in_flight=st.integers(0, 3),
    in_status_s=seconds,
    silent_s=seconds,
    lost=st.integers(0, 25),
)
targets = st.sampled_from(ReplicaTarget)


def _row(status: ReplicaStatus, target: ReplicaTarget = ReplicaTarget.READY) -> ReplicaRow:
    return ReplicaRow("replica_1", "small", "small@1", "small", "local", status, target)


@repeatable
@given(st.sampled_from(ReplicaStatus), targets, sights)
def test_every_step_is_an_allowed_transition(status: ReplicaStatus, target: ReplicaTarget, seen: Seen) -> None:
    action = next_step(_row(status, target), seen, LIMITS)
    if action.kind is Kind.REST:
        assert action == REST
    else:
        assert action.status in REPLICA_TRANSITIONS[status]
        assert action.message
        assert (action.kind is Kind.END) == action.status.final


@repeatable
@given(st.lists(st.tuples(targets, sights), max_size=30))
def test_every_walk_is_made_of_allowed_transitions(observations: list[tuple[ReplicaTarget, Seen]]) -> None:
    row, ever_stopped = _row(ReplicaStatus.PENDING), False
    for target, seen in observations:
        row = replace(row, target=target)
        action = next_step(row, seen, LIMITS)
        if action.status:
            assert action.status in REPLICA_TRANSITIONS[row.status]
            row = replace(row, status=action.status)
        ever_stopped |= target is ReplicaTarget.STOPPED
    if row.status is ReplicaStatus.STOPPED:
        assert ever_stopped, "nothing stops what is wanted"


@repeatable
@given(st.sampled_from(ReplicaStatus), sights)
def test_what_is_not_wanted_ends_in_two_steps_once_it_is_idle(status: ReplicaStatus, seen: Seen) -> None:
    row, idle = _row(status, ReplicaTarget.STOPPED), replace(seen, in_flight=0)
    for _ in range(2):
        row = replace(row, status=next_step(row, idle, LIMITS).status or row.status)
    assert row.status.final


@repeatable
@given(st.sampled_from(ReplicaStatus), targets, sights)
def test_a_program_that_is_gone_is_never_kept(status: ReplicaStatus, target: ReplicaTarget, seen: Seen) -> None:
    action = next_step(_row(status, target), replace(seen, program=GONE), LIMITS)
    assert action.kind is Kind.REST if status.final else action.kind is Kind.END
    if action.status is ReplicaStatus.FAILED:
        assert action.message == GONE.reason


@repeatable
@given(st.sampled_from(ReplicaStatus), targets, sights)
def test_absence_is_not_evidence(status: ReplicaStatus, target: ReplicaTarget, seen: Seen) -> None:
    row = _row(status, target)
    known = next_step(row, replace(seen, program=KNOWN), LIMITS)
    assert next_step(row, replace(seen, program=UNKNOWN), LIMITS) == known


@pytest.mark.parametrize(
    ("status", "seen", "kind", "then"),
    [
        ("pending", Seen(), Kind.LAUNCH, "starting"),
        ("starting", Seen(program=KNOWN), Kind.REST, None),
        ("starting", Seen(program=KNOWN, answers=True), Kind.MARK, "verifying"),
        ("starting", Seen(program=KNOWN, in_status_s=1800.0), Kind.END, "failed"),
        ("verifying", Seen(program=KNOWN, answers=True), Kind.REST, None),
        ("verifying", Seen(program=KNOWN, verdict=True), Kind.MARK, "ready"),
        ("verifying", Seen(program=KNOWN, verdict=False), Kind.MARK, "quarantined"),
        ("ready", Seen(program=KNOWN, verdict=True, in_status_s=1e9, in_flight=9), Kind.REST, None),
        ("ready", Seen(program=KNOWN, verdict=False), Kind.MARK, "quarantined"),
        ("ready", Seen(program=KNOWN, silent_s=59.9), Kind.REST, None),
        ("ready", Seen(program=KNOWN, silent_s=60.0), Kind.END, "failed"),
        ("ready", Seen(program=KNOWN, lost=19), Kind.REST, None),
        ("ready", Seen(program=KNOWN, lost=20), Kind.END, "failed"),
        ("quarantined", Seen(program=KNOWN, verdict=False), Kind.REST, None),
        ("quarantined", Seen(program=KNOWN, verdict=True), Kind.MARK, "verifying"),
        ("stopped", Seen(program=GONE), Kind.REST, None),
        ("failed", Seen(program=GONE), Kind.REST, None),
    ],
)
def test_the_way_to_ready(status: str, seen: Seen, kind: Kind, then: str | None) -> None:
    action = next_step(_row(ReplicaStatus(status)), seen, LIMITS)
    assert (action.kind, action.status) == (kind, then)


@pytest.mark.parametrize(
    ("status", "seen", "expected"),
    [
        ("pending", Seen(), (Kind.END, "stopped")),
        ("starting", Seen(program=KNOWN), (Kind.END, "stopped")),
        ("verifying", Seen(program=KNOWN), (Kind.END, "stopped")),
        ("quarantined", Seen(program=KNOWN), (Kind.END, "stopped")),
        ("ready", Seen(program=KNOWN, in_flight=1), (Kind.MARK, "draining")),
        ("ready", Seen(program=KNOWN), (Kind.MARK, "draining")),
        ("ready", Seen(program=GONE), (Kind.END, "stopped")),
        ("draining", Seen(program=KNOWN, in_flight=1), (Kind.REST, None)),
        ("draining", Seen(program=KNOWN, in_flight=1, in_status_s=3600.0), (Kind.END, "stopped")),
        ("draining", Seen(program=KNOWN), (Kind.END, "stopped")),
    ],
)
def test_the_way_to_stopped(status: str, seen: Seen, expected: tuple[Kind, str | None]) -> None:
    action = next_step(_row(ReplicaStatus(status), ReplicaTarget.STOPPED), seen, LIMITS)
    assert (action.kind, action.status) == expected


def test_resting_names_no_status() -> None:
    assert Action(Kind.REST) == REST
    assert REST.status is None


def test_the_back_off_doubles_up_to_a_minute() -> None:
    assert [backoff_s(n) for n in (0, 1, 2, 3, 4, 5, 6, 7, 8, 5000)] == [1, 1, 2, 4, 8, 16, 32, 60, 60, 60]

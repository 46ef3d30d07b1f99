"""What to do next with a replica: a pure decision from its row and what is seen of it.

| status      | wanted ready                                        | wanted stopped                    |
|-------------|-----------------------------------------------------|-----------------------------------|
| pending     | launch -> starting                                  | end -> stopped                    |
| starting    | answers -> verifying; too late: end -> failed       | end -> stopped                    |
| verifying   | right -> ready; wrong -> quarantined                | end -> stopped                    |
| ready       | wrong -> quarantined; silent too long, or lost too  | -> draining                       |
|             | many requests: end -> failed                        |                                   |
| quarantined | right -> verifying                                  | end -> stopped                    |
| draining    | idle or too long: end -> stopped                    | idle or too long: end -> stopped  |

A program that is gone ends in `failed` when it was wanted, in `stopped` when it was not. A program that cannot
be seen (`unknown`) changes nothing. `stopped` and `failed` are final: what is wanted again is a new row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from terascope.core.states import ReplicaStatus, ReplicaTarget
from terascope.fleet.launchers.contract import Observation, Sight
from terascope.store.replicas import ReplicaRow


@dataclass(frozen=True, slots=True)
class Limits:
    """How patient the fleet is, in seconds. `DeploymentConfig.start_timeout_s` replaces `start_s`."""

    start_s: float = 1800.0  # from the start to the first answer
    silent_s: float = 60.0  # a ready engine that answers no probe is started anew after that
    external_s: float = 10.0  # both for an engine that is not ours to start: it has nothing to load
    drain_s: float = 3600.0  # running answers of a replica that is no longer wanted
    grace_s: float = 10.0  # from SIGTERM to SIGKILL
    health_s: float = 10.0  # between two probes of a ready engine
    probe_s: float = 10.0  # for one probe
    first_pause_s: float = 0.05  # between probes of an engine that does not answer yet, doubled each time up to
    last_pause_s: float = 0.25
    external_pause_s: float = 5.0  # the same for an engine that is not ours
    remote_pause_s: float = 1.0  # the same for an engine on another machine
    most_lost: int = 20  # requests in a row that a ready engine may lose although it answers probes; 0: any number
    healthy_s: float = 600.0  # a replica that was ready for so long has no history of failures any more


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of a replica besides its row.

    `program`: the last look at it, None before it was started. `answers`: the last probe. `verdict`: whether
    its numbers are right, None when not known yet. `in_status_s`: seconds since its status changed.
    `silent_s`: seconds since a ready engine stopped to answer. `lost`: how many requests in a row it has lost.
    """

    program: Observation | None = None
    answers: bool = False
    verdict: bool | None = None
    in_flight: int = 0
    in_status_s: float = 0.0
    silent_s: float = 0.0
    lost: int = 0


class Kind(StrEnum):
    """What there is to do."""

    REST = "rest"  # nothing, until something else is seen
    LAUNCH = "launch"  # have the launcher start the program
    MARK = "mark"  # only write the new status
    END = "end"  # stop whatever is left, then write the new status


@dataclass(frozen=True, slots=True)
class Action:
    """One step: what to do, the status that is true afterwards, and why, for the user."""

    kind: Kind
    status: ReplicaStatus | None = None
    message: str = ""


REST = Action(Kind.REST)


def next_step(row: ReplicaRow, seen: Seen, limits: Limits) -> Action:
    """Return the next step of `row`; every status it names is one that `REPLICA_TRANSITIONS` allows."""
    if row.status.final:
        return REST
    gone = seen.program is not None and seen.program.sight is Sight.GONE
    if row.target is ReplicaTarget.STOPPED or row.status is ReplicaStatus.DRAINING:
        return _towards_stopped(row, seen, limits, gone)
    if gone and seen.program:
        return Action(Kind.END, ReplicaStatus.FAILED, seen.program.reason)
    return _TOWARDS_READY[row.status](seen, limits)


def backoff_s(failures: int) -> float:
    """Seconds to wait before what failed `failures` times in a row is started again: 1, 2, 4, ... 60."""
    return min(60.0, 2.0 ** min(max(failures - 1, 0), 6))


def _towards_stopped(row: ReplicaRow, seen: Seen, limits: Limits, gone: bool) -> Action:
    if row.status is ReplicaStatus.READY and not gone:
        return Action(Kind.MARK, ReplicaStatus.DRAINING, "finishes what it has begun")
    busy = seen.in_flight > 0 and seen.in_status_s < limits.drain_s
    if row.status is ReplicaStatus.DRAINING and busy and not gone:
        return REST
    return Action(Kind.END, ReplicaStatus.STOPPED, "was told to stop")


def _pending(_seen: Seen, _limits: Limits) -> Action:
    return Action(Kind.LAUNCH, ReplicaStatus.STARTING, "is being started")


def _starting(seen: Seen, limits: Limits) -> Action:
    if seen.answers:
        return Action(Kind.MARK, ReplicaStatus.VERIFYING, "answers")
    if seen.in_status_s >= limits.start_s:
        return Action(Kind.END, ReplicaStatus.FAILED, f"did not answer within {limits.start_s:g} s of its start")
    return REST


def _verifying(seen: Seen, _limits: Limits) -> Action:
    if seen.verdict is None:
        return REST
    if seen.verdict:
        return Action(Kind.MARK, ReplicaStatus.READY, "ready")
    return Action(Kind.MARK, ReplicaStatus.QUARANTINED, _WRONG)


def _ready(seen: Seen, limits: Limits) -> Action:
    if seen.silent_s >= limits.silent_s:
        return Action(Kind.END, ReplicaStatus.FAILED, f"has not answered for {limits.silent_s:g} s")
    if 0 < limits.most_lost <= seen.lost:
        return Action(Kind.END, ReplicaStatus.FAILED, f"answers probes, but has lost its last {seen.lost} requests")
    return Action(Kind.MARK, ReplicaStatus.QUARANTINED, _WRONG) if seen.verdict is False else REST


def _quarantined(seen: Seen, _limits: Limits) -> Action:
    return Action(Kind.MARK, ReplicaStatus.VERIFYING, "is being checked again") if seen.verdict else REST


_WRONG = "its numbers differ from the fingerprint of its model version"
_TOWARDS_READY: dict[ReplicaStatus, Callable[[Seen, Limits], Action]] = {
    ReplicaStatus.PENDING: _pending,
    ReplicaStatus.STARTING: _starting,
    ReplicaStatus.VERIFYING: _verifying,
    ReplicaStatus.READY: _ready,
    ReplicaStatus.QUARANTINED: _quarantined,
}

"""Life cycles: each state documented, each transition listed; nothing else is allowed."""

from enum import StrEnum


class ReplicaStatus(StrEnum):
    """Where a replica stands.

    `pending -> starting -> verifying -> ready -> draining -> stopped` is the ordinary way; a replica that
    fails goes to `failed` (its process ended or never answered) or `quarantined` (its numbers are wrong).
    """

    PENDING = "pending"  # wanted, nothing started yet
    STARTING = "starting"  # its process exists; the engine does not answer yet
    VERIFYING = "verifying"  # the engine answers
    READY = "ready"  # takes requests
    DRAINING = "draining"  # finishes what it has, takes nothing new
    QUARANTINED = "quarantined"  # runs, but its numbers are wrong: takes nothing
    STOPPED = "stopped"  # ended because it was told to
    FAILED = "failed"  # ended by itself, or never became ready

    @property
    def final(self) -> bool:
        """True when nothing of the replica is left running."""
        return self in (ReplicaStatus.STOPPED, ReplicaStatus.FAILED)


REPLICA_TRANSITIONS: dict[ReplicaStatus, frozenset[ReplicaStatus]] = {
    ReplicaStatus.PENDING: frozenset({ReplicaStatus.STARTING, ReplicaStatus.STOPPED, ReplicaStatus.FAILED}),
    ReplicaStatus.STARTING: frozenset(
        {ReplicaStatus.VERIFYING, ReplicaStatus.DRAINING, ReplicaStatus.STOPPED, ReplicaStatus.FAILED}
    ),
    ReplicaStatus.VERIFYING: frozenset(
        {
            ReplicaStatus.READY,
            ReplicaStatus.QUARANTINED,
            ReplicaStatus.DRAINING,
            ReplicaStatus.STOPPED,
            ReplicaStatus.FAILED,
        }
    ),
    ReplicaStatus.READY: frozenset(
        {ReplicaStatus.DRAINING, ReplicaStatus.QUARANTINED, ReplicaStatus.STOPPED, ReplicaStatus.FAILED}
    ),
    ReplicaStatus.DRAINING: frozenset({ReplicaStatus.STOPPED, ReplicaStatus.FAILED}),
    ReplicaStatus.QUARANTINED: frozenset(
        {ReplicaStatus.VERIFYING, ReplicaStatus.DRAINING, ReplicaStatus.STOPPED, ReplicaStatus.FAILED}
    ),
    ReplicaStatus.STOPPED: frozenset(),
    ReplicaStatus.FAILED: frozenset(),
}


class ReplicaTarget(StrEnum):
    """What the operator wants of a replica."""

    READY = "ready"
    STOPPED = "stopped"


class DeploymentTarget(StrEnum):
    """What the operator wants of a deployment."""

    RUNNING = "running"  # its replicas are kept
    STOPPED = "stopped"  # it is remembered, and none is kept


class Outcome(StrEnum):
    """How a request ended, in its run record."""

    COMPLETED = "completed"  # the engine's whole answer was passed on
    CANCELLED = "cancelled"  # the client left
    REFUSED = "refused"  # refused with a 4xx before or by the engine
    FAILED = "failed"  # ended in an explicit error


class Ingestion(StrEnum):
    """Where a file of a vector store stands: `in_progress`, then one of the others."""

    IN_PROGRESS = "in_progress"  # asked for; none of it can be found yet
    COMPLETED = "completed"  # all of it can be found
    FAILED = "failed"  # it cannot be used; its error says why
    CANCELLED = "cancelled"  # its batch was cancelled before it came

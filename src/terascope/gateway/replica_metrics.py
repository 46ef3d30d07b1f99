"""What each replica does, for `/metrics` and for the operator's view. Series end with their replicas."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from terascope.core.runs import RunRecord
from terascope.core.states import ReplicaStatus
from terascope.fleet.replica import Replica

Replicas = Callable[[], tuple[Replica, ...]]
"""Returns the replicas that there are, one for each place."""

_LABELS = ("deployment", "model", "replica")


@dataclass(slots=True)
class Counts:
    """What a replica has answered: requests by how they ended, and tokens."""

    outcomes: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def requests(self) -> int:
        """Requests that ended, however."""
        return self.outcomes.total()


class ReplicaMetrics(Collector):
    """Counts ended requests by replica; of replicas that are gone nothing is kept, so there are never many series."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas
        self._counts: dict[str, Counts] = {}

    def count(self, record: RunRecord) -> None:
        """Count one ended request; one that reached no replica counts nowhere."""
        if not record.replica:
            return
        if record.replica not in self._counts:
            living = {one.id for one in self._replicas()}
            self._counts = {name: counts for name, counts in self._counts.items() if name in living}
        counts = self._counts.setdefault(record.replica, Counts())
        counts.outcomes[record.outcome.value] += 1
        counts.prompt_tokens += record.prompt_tokens
        counts.completion_tokens += record.completion_tokens

    def of(self, replica_id: str) -> Counts:
        """What a replica has answered so far."""
        return self._counts.get(replica_id, Counts())

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        replicas = self._replicas()
        yield _statuses(replicas)
        busy = GaugeMetricFamily(
            "terascope_replica_in_flight", "Requests that the replica answers now.", labels=_LABELS
        )
        requests = CounterMetricFamily(
            "terascope_replica_requests", "Requests that the replica answered.", labels=(*_LABELS, "outcome")
        )
        tokens = CounterMetricFamily(
            "terascope_replica_tokens", "Tokens as the replica's engine counted them.", labels=(*_LABELS, "kind")
        )
        for one in replicas:
            labels, counts = [one.row.deployment, one.row.model, one.id], self.of(one.id)
            busy.add_metric(labels, one.in_flight)
            for outcome, count in counts.outcomes.items():
                requests.add_metric([*labels, outcome], count)
            tokens.add_metric([*labels, "prompt"], counts.prompt_tokens)
            tokens.add_metric([*labels, "completion"], counts.completion_tokens)
        yield from (busy, requests, tokens)


def _statuses(replicas: tuple[Replica, ...]) -> Metric:
    family = GaugeMetricFamily(
        "terascope_deployment_replicas", "Replicas of the deployment by status.", labels=("deployment", "status")
    )
    found = Counter((one.row.deployment, one.row.status) for one in replicas)
    for deployment in sorted({one.row.deployment for one in replicas}):
        for status in ReplicaStatus:
            family.add_metric([deployment, status.value], found[deployment, status])
    return family

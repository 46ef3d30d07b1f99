"""What the gateway counts, for Prometheus. No label names a person, a key or a text."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from terascope.core.projects import Qos
from terascope.core.runs import RunRecord
from terascope.gateway.replica_metrics import ReplicaMetrics, Replicas

Waiting = Callable[[], Mapping[tuple[str, Qos], int]]
"""How many requests wait for their turn, by model and QOS."""

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)


@dataclass(frozen=True, slots=True)
class _Series:
    requests: Counter
    prompt: Counter
    completion: Counter
    cached: Counter
    first: Histogram
    total: Histogram


class _Waiting(Collector):
    """Asked when the metrics are: the queues themselves keep count."""

    def __init__(self, waiting: Waiting) -> None:
        self._waiting = waiting

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "terascope_waiting", "Requests that wait for their turn on a model.", labels=["model", "qos"]
        )
        for (model, qos), count in self._waiting().items():
            family.add_metric([model, qos.value], count)
        yield family


class Metrics:
    """The gateway's own series."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # else each has a second series beside it
        self._known: dict[tuple[str, str, str], _Series] = {}
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "terascope_requests", "Requests to models, by how they ended.", ["endpoint", "model", "outcome"],
            registry=self.registry,
        )  # fmt: skip
        self._tokens = Counter(
            "terascope_tokens", "Tokens as the engines counted them.", ["model", "kind"], registry=self.registry
        )
        self._cached = Counter(
            "terascope_cached_tokens", "Tokens of prompts that the engines had computed before.", ["model"],
            registry=self.registry,
        )  # fmt: skip
        self._first = Histogram(
            "terascope_first_byte_seconds", "From the request to the first byte of the answer.", ["model"],
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._total = Histogram(
            "terascope_answer_seconds", "From the request to the end of the answer.", ["model"],
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.waiting: Waiting = dict
        self.replicas = ReplicaMetrics(tuple)
        self.in_flight = Gauge("terascope_in_flight", "Requests to models being answered now.", registry=self.registry)

    def watch(self, waiting: Waiting, replicas: Replicas) -> None:
        """Tell how many requests wait, too, and what each replica does."""
        self.waiting = waiting
        self.replicas = ReplicaMetrics(replicas)
        self.registry.register(_Waiting(waiting))
        self.registry.register(self.replicas)

    def count(self, record: RunRecord) -> None:
        """Count one ended request."""
        self.replicas.count(record)
        series = self._series(record.endpoint, record.model or "none", record.outcome)
        series.requests.inc()
        series.prompt.inc(record.prompt_tokens)
        series.completion.inc(record.completion_tokens)
        series.cached.inc(record.cached_tokens)
        if record.first_s:
            series.first.observe(record.first_s)
        series.total.observe(record.total_s)

    def _series(self, endpoint: str, model: str, outcome: str) -> "_Series":
        """The series a request counts in; looking them up by label costs more than counting."""
        found = self._known.get((endpoint, model, outcome))
        if found is None:
            found = self._known[endpoint, model, outcome] = _Series(
                self._requests.labels(endpoint, model, outcome),
                self._tokens.labels(model, "prompt"),
                self._tokens.labels(model, "completion"),
                self._cached.labels(model),
                self._first.labels(model),
                self._total.labels(model),
            )
        return found

    def text(self) -> bytes:
        """All series in Prometheus' text format."""
        return generate_latest(self.registry)

"""What the gateway counts, for Prometheus. No label names a person, a key or a text."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from terascope.core.runs import RunRecord

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)


class Metrics:
    """The gateway's own series."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "terascope_requests", "Requests to models, by how they ended.", ["endpoint", "model", "outcome"],
            registry=self.registry,
        )  # fmt: skip
        self._tokens = Counter(
            "terascope_tokens", "Tokens as the engines counted them.", ["model", "kind"], registry=self.registry
        )
        self._first = Histogram(
            "terascope_first_byte_seconds", "From the request to the first byte of the answer.", ["model"],
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._total = Histogram(
            "terascope_answer_seconds", "From the request to the end of the answer.", ["model"],
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.in_flight = Gauge("terascope_in_flight", "Requests being answered now.", registry=self.registry)

    def count(self, record: RunRecord) -> None:
        """Count one ended request."""
        model = record.model or "none"
        self._requests.labels(record.endpoint, model, record.outcome).inc()
        if record.prompt_tokens:
            self._tokens.labels(model, "prompt").inc(record.prompt_tokens)
        if record.completion_tokens:
            self._tokens.labels(model, "completion").inc(record.completion_tokens)
        if record.first_s:
            self._first.labels(model).observe(record.first_s)
        self._total.labels(model).observe(record.total_s)

    def text(self) -> bytes:
        """All series in Prometheus' text format."""
        return generate_latest(self.registry)

"""The worker's own figures, in Prometheus' text format."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

_STEP_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_QUEUE_BUCKETS = (0.01, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800)
_ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters and gauges of one worker. Safe to use from several threads."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # else each has a second series beside it
        registry = self._registry = CollectorRegistry()
        name = "terascope_engine"
        self._tokens = Counter(f"{name}_tokens", "Tokens computed.", ["kind"], registry=registry)
        self._found = Counter(f"{name}_cached_tokens", "Prompt tokens found in the prefix cache.", registry=registry)
        self._rows = Gauge(f"{name}_rows", "Rows in the engine.", ["state"], registry=registry)
        self._preempted = Gauge(f"{name}_preemptions", "Rows that had to be computed again.", registry=registry)
        self._cache = Gauge(f"{name}_cache_tokens", "Tokens that the KV cache holds.", ["state"], registry=registry)
        self._parts = Counter(f"{name}_step_seconds", "Time in parts of steps.", ["part"], registry=registry)
        self._step = Histogram(f"{name}_step_time_seconds", "Time of steps.", buckets=_STEP_BUCKETS, registry=registry)
        self._lost = Counter(
            f"{name}_interrupted_seconds", "Time in steps that were given up for urgent requests.", registry=registry
        )
        self._batch = Histogram(f"{name}_batch_rows", "Rows in a step.", buckets=_ROW_BUCKETS, registry=registry)
        self._queue = Histogram(
            f"{name}_queue_seconds",
            "Time from a row's arrival to its first step.",
            buckets=_QUEUE_BUCKETS,
            registry=registry,
        )
        self._requests = Counter(f"{name}_requests", "Requests by status.", ["endpoint", "status"], registry=registry)

    def load(self, running: int, waiting: int, preemptions: int) -> None:
        """Note how many rows there are."""
        self._rows.labels("running").set(running)
        self._rows.labels("waiting").set(waiting)
        self._preempted.set(preemptions)

    def cache(self, used: int, kept: int, blank: int) -> None:
        """Note how many tokens' room rows use, what they left holds, and how much is empty."""
        for state, tokens in (("used", used), ("kept", kept), ("blank", blank)):
            self._cache.labels(state).set(tokens)

    def began(self, queue_s: float, cached: int) -> None:
        """Note a row's first step: how long it waited, and how many tokens of its prompt were there already."""
        self._queue.observe(queue_s)
        self._found.inc(cached)

    def batch(self, rows: int) -> None:
        """Note how many rows a step has."""
        self._batch.observe(rows)

    def step(self, prompt: int, made: int, plan_s: float, compute_s: float, choose_s: float) -> None:
        """Note a step: tokens computed of prompts, tokens made, and seconds of its parts."""
        self._tokens.labels("prompt").inc(prompt)
        self._tokens.labels("completion").inc(made)
        for part, seconds in (("plan", plan_s), ("compute", compute_s), ("choose", choose_s)):
            self._parts.labels(part).inc(seconds)
        self._step.observe(plan_s + compute_s + choose_s)

    def interrupted(self, seconds: float) -> None:
        """Note a step that was given up after `seconds`."""
        self._lost.inc(seconds)

    def request(self, endpoint: str, status: int) -> None:
        """Count a request that has been answered."""
        self._requests.labels(endpoint, str(status)).inc()

    def text(self) -> bytes:
        """Return everything as Prometheus reads it."""
        return generate_latest(self._registry)

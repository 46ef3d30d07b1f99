"""Limits on how fast a key, a project and a class of service may ask: requests, tokens, answers at once.

Each limit is a bucket that fills continuously and holds a minute's worth. A request takes the tokens its prompt
probably has when it comes, and the rest when it is over and they are known; a bucket may then be in debt for a while.
The state is this process' own: with several gateways each of them grants as much.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from terascope.access.principal import Grant
from terascope.core.clock import Clock
from terascope.core.config import LimitConfig, LimitsConfig
from terascope.core.errors import RateLimited

_MINUTE_S = 60.0
_SUBJECTS = 20_000  # whose state is kept; who has not asked for longest is forgotten first
_BUSY_RETRY_S = 1.0


class Bucket:
    """`limit` in a minute, as a level that fills continuously. Times are monotonic seconds."""

    def __init__(self, limit: int, now: float) -> None:
        self.limit = limit
        self._level = float(limit)
        self._at = now

    def level(self, now: float) -> float:
        """What may be taken at `now`; below 0 it is in debt."""
        self._level = min(self.limit, self._level + max(0.0, now - self._at) * self.limit / _MINUTE_S)
        self._at = max(now, self._at)
        return self._level

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` may be taken; more than it can ever hold may be taken when it is full."""
        return max(0.0, (min(amount, self.limit) - self.level(now)) * _MINUTE_S / self.limit)

    def take(self, amount: float, now: float) -> None:
        """Take `amount`, even into debt; a negative one is given back."""
        self._level = min(self.limit, self.level(now) - amount)


@dataclass(slots=True)
class _Subject:
    """What one key, project or QOS may do, and has in flight."""

    name: str
    concurrent: int
    requests: Bucket | None
    tokens: Bucket | None
    in_flight: int = 0


@dataclass(slots=True)
class Pass:
    """The right of one request to go on, to be given back with `Limits.leave`."""

    subjects: list[_Subject] = field(default_factory=list)
    tokens: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)


NO_LIMITS = Pass()
"""That of a request without limits, from which there is nothing to take back."""


class Limits:
    """Lets requests in, or says when to come back."""

    def __init__(self, config: LimitsConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._known: OrderedDict[tuple[str, str], _Subject] = OrderedDict()
        everybodys = [config.key, config.project]
        self._any = any(
            one.any for one in [*everybodys, *config.keys.values(), *config.projects.values(), *config.qos.values()]
        )

    def enter(self, grant: Grant, tokens: int) -> Pass:
        """Let a request with probably so many tokens in; it counts in all its limits, or in none.

        Raises `RateLimited` with the time to wait, and OpenAI's headers.
        """
        if not self._any:
            return NO_LIMITS
        subjects = self._subjects(grant)
        if not subjects:
            return NO_LIMITS
        now = self._clock.monotonic()
        for subject in subjects:
            self._check(subject, tokens, now)
        for subject in subjects:
            subject.in_flight += 1
            if subject.requests:
                subject.requests.take(1, now)
            if subject.tokens:
                subject.tokens.take(tokens, now)
        return Pass(subjects, tokens, _headers(subjects, now))

    def leave(self, one: Pass, tokens: int) -> None:
        """The request of that pass is over and had so many tokens. Called once for each."""
        if not one.subjects:
            return
        now = self._clock.monotonic()
        for subject in one.subjects:
            subject.in_flight -= 1
            if subject.tokens:
                subject.tokens.take(tokens - one.tokens, now)
        one.subjects = []

    def _check(self, subject: _Subject, tokens: int, now: float) -> None:
        if subject.concurrent and subject.in_flight >= subject.concurrent:
            raise self._refusal(
                f"{subject.name} has {subject.concurrent} requests running, its most", _BUSY_RETRY_S, {}
            )
        for bucket, amount, what in ((subject.requests, 1, "requests"), (subject.tokens, tokens, "tokens")):
            if bucket and (wait := bucket.wait(amount, now)) > 0:
                message = f"{subject.name} may have {bucket.limit:,} {what} a minute"
                raise self._refusal(message, wait, _headers([subject], now))

    def _refusal(self, message: str, wait: float, headers: Mapping[str, str]) -> RateLimited:
        error = RateLimited(f"{message}; come back in {max(1, round(wait))} s", retry_after=wait)
        error.headers = headers
        return error

    def _subjects(self, grant: Grant) -> list[_Subject]:
        config, key_id, project = self._config, grant.principal.key_id, grant.project
        wanted = (
            ("key", key_id, "this key", config.keys.get(key_id, config.key)),
            ("project", project, f"the project {project}", config.projects.get(project, config.project)),
            ("qos", grant.qos.value, f"the QOS {grant.qos}", config.qos.get(grant.qos.value)),
        )
        return [self._subject((kind, which), name, limit) for kind, which, name, limit in wanted if limit and limit.any]

    def _subject(self, key: tuple[str, str], name: str, limit: LimitConfig) -> _Subject:
        found = self._known.get(key)
        if found is None:
            now = self._clock.monotonic()
            requests = Bucket(limit.requests_per_minute, now) if limit.requests_per_minute else None
            tokens = Bucket(limit.tokens_per_minute, now) if limit.tokens_per_minute else None
            found = self._known[key] = _Subject(name, limit.concurrent, requests, tokens)
            self._forget_idle()
        self._known.move_to_end(key)
        return found

    def _forget_idle(self) -> None:
        if len(self._known) > _SUBJECTS:
            oldest = next((key for key, one in self._known.items() if not one.in_flight), None)
            if oldest is not None:
                del self._known[oldest]


def _headers(subjects: Iterable[_Subject], now: float) -> dict[str, str]:
    """OpenAI's headers, of the limit that is nearest to its end."""
    told: dict[str, str] = {}
    for what in ("requests", "tokens"):
        buckets = [bucket for one in subjects if (bucket := getattr(one, what)) is not None]
        if buckets:
            tightest = min(buckets, key=lambda bucket: bucket.level(now) / bucket.limit)
            told[f"x-ratelimit-limit-{what}"] = str(tightest.limit)
            told[f"x-ratelimit-remaining-{what}"] = str(max(0, int(tightest.level(now))))
            told[f"x-ratelimit-reset-{what}"] = _duration(tightest.wait(tightest.limit, now))
    return told


def _duration(seconds: float) -> str:
    """`1m2.500s` or `250ms`, as OpenAI writes times."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}m{rest:.3f}s" if minutes else f"{rest:.3f}s"

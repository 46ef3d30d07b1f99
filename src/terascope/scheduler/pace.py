"""How fast a model serves, and what its requests cost: for estimates of what is to come."""

import math

_HALF_LIFE_S = 60.0
_STEP_S = 1.0  # how often time is counted that never ends
_REMEMBERED = 0.1  # the weight of the newest request in a project's average
_UNKNOWN_TOKENS = 128  # of an answer, where nothing was seen yet


class Pace:
    """Service per second of the time in which there was something to serve; older service counts less.

    Service is in any unit of cost, times are monotonic seconds.
    """

    def __init__(self) -> None:
        self._served = self._busy_s = 0.0
        self._since = 0.0  # nothing of the time before it is left to count
        self._running = 0

    def began(self, now: float) -> None:
        """A request runs."""
        if not self._running:
            self._since = now
        self._running += 1

    def ended(self, now: float) -> None:
        """One that ran is over."""
        self._running -= 1
        if not self._running:
            self._count(now)

    def passed(self, now: float) -> None:
        """Time has passed: to be said every few seconds while something runs."""
        if self._running and now - self._since > _STEP_S:
            self._count(now)

    def served(self, cost: float) -> None:
        """So much service was given to one that ran."""
        self._served += cost

    def seconds(self, cost: float) -> float | None:
        """How long it takes to serve so much; None while nothing is known."""
        return cost * self._busy_s / self._served if self._served and self._busy_s else None

    def _count(self, now: float) -> None:
        """All of the time since the last count there was something to serve."""
        passed = max(0.0, now - self._since)
        left = math.exp2(-passed / _HALF_LIFE_S)
        self._served, self._busy_s, self._since = self._served * left, self._busy_s * left + passed, now


class AnswerLength:
    """How many tokens the answers of each project had lately."""

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._tokens: dict[str, float] = {}

    def expected(self, project: str, limit: int | None) -> int:
        """Tokens that the next answer will probably have, at most `limit`."""
        tokens = round(self._tokens.get(project, _UNKNOWN_TOKENS))
        return tokens if limit is None else min(tokens, limit)

    def seen(self, project: str, tokens: float, answers: int = 1) -> None:
        """So many answers had that many each, or on average."""
        if len(self._tokens) >= self._most and project not in self._tokens:
            self._tokens.clear()
        before = self._tokens.get(project, float(tokens))
        self._tokens[project] = tokens + (1 - _REMEMBERED) ** answers * (before - tokens)

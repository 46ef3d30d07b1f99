"""When a request is sent again, and after how long. Nothing of its answer has gone to anybody then."""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime

from terascope.core.clock import Clock, SystemClock

_PASSING = frozenset({408, 429, 500, 502, 503, 504, 529})
"""Statuses that another try may change; 529 is what some services say when they are overloaded."""
_FIRST_S = 0.5
_LONGEST_S = 8.0  # between two tries, where the server does not say
_NUMBER = re.compile(r"\d{1,9}(\.\d{1,6})?")


@dataclass(slots=True)
class Retries:
    """How often and how patiently a server is asked again.

    `most` further tries; a server that wants more than `patience_s` seconds is not waited for: the client is told.
    """

    most: int = 2
    patience_s: float = 20.0
    clock: Clock = field(default_factory=SystemClock)
    chance: random.Random = field(default_factory=random.Random)

    def wait_s(self, tried: int, status: int, headers: Mapping[str, str]) -> float | None:
        """Return how long to wait before the next try, None for no other; `tried` counts those there were.

        A server's own `Retry-After` and `X-Should-Retry` are heeded.
        """
        should = headers.get("x-should-retry", "").lower()
        if tried > self.most or should == "false" or not (status in _PASSING or should == "true"):
            return None
        asked = self.asked_s(headers)
        wait = self.pause_s(tried) if asked is None else asked
        return wait if wait <= self.patience_s else None

    def pause_s(self, tried: int) -> float:
        """Seconds before the next try when nobody says: twice as long each time, and not the same for everyone."""
        return float(min(_LONGEST_S, _FIRST_S * 2 ** (tried - 1)) * (0.5 + self.chance.random() / 2))

    def asked_s(self, headers: Mapping[str, str]) -> float | None:
        """Seconds that the server asks to wait; None when it does not say, or not so that it can be understood."""
        text = headers.get("retry-after", "").strip()
        if _NUMBER.fullmatch(text):
            return float(text)
        try:
            until = parsedate_to_datetime(text)
        except ValueError:
            return None
        until = until if until.tzinfo else until.replace(tzinfo=UTC)
        return max(0.0, until.timestamp() - self.clock.now())

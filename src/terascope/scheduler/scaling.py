"""How many replicas a deployment wants, from what runs and waits; a pure decision, with no clock of its own.

More are wanted when requests wait for long, or as many wait as run; fewer only when fewer would have been enough for
all of the idle time, with some places to spare. So a raise is never taken back within the idle time, and a number that
falls rises again only because something waits: between the two it rests.
"""

from collections import deque
from dataclasses import dataclass
from math import ceil

from terascope.core.bounds import Bounds

PATIENCE_S = 5.0
"""Requests that wait for so long, while all replicas have as much as they may, are reason enough for another."""
_ROOM = 0.8  # of its places a replica may use, and others still be taken away


@dataclass(frozen=True, slots=True)
class Load:
    """What a deployment has to do.

    `running`: the most requests that its replicas had at once since the last look. `waiting`: how many wait for it, the
    first of them for `waited_s` seconds. `places`: how many one replica takes at once, 0 when that is not known.
    `reserved`: slots that are kept for projects. `starting`: how many replicas are on their way.
    """

    running: int = 0
    waiting: int = 0
    waited_s: float = 0.0
    places: int = 0
    reserved: int = 0
    starting: int = 0


class Scaler:
    """Decides for one deployment. Times are monotonic seconds; `wanted` is asked again and again."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._peaks: deque[tuple[float, int]] = deque()  # what was wanted lately, less with every entry

    def wanted(self, kept: int, load: Load, now: float) -> int:
        """Return how many replicas to keep, of which there are `kept` now, those that start counted too.

        It is never below `least` or above `most`, and below `kept` only after `idle_s`.
        """
        due = max(self.bounds.rest, _replicas(load.reserved, load.places), self._busy(load))
        if _pressed(kept, load):
            due = max(due, _replicas(load.running + load.waiting, load.places))
        held = max(due, _replicas(load.running + load.waiting, int(_ROOM * load.places) or min(1, load.places)))
        if load.starting:  # it is not idle before it was ready
            held = max(held, kept)
        peak = self._peak(min(held, self.bounds.most), now)
        return max(self.bounds.least, min(self.bounds.most, max(due, min(kept, peak))))

    def _busy(self, load: Load) -> int:
        running = _replicas(load.running, load.places)
        return running + self.bounds.hot

    def _peak(self, held: int, now: float) -> int:
        """The most that was held in the last `idle_s` seconds, `held` among them."""
        while self._peaks and self._peaks[-1][1] <= held:
            self._peaks.pop()
        self._peaks.append((now, held))
        while self._peaks[0][0] < now - self.bounds.idle_s:
            self._peaks.popleft()
        return self._peaks[0][1]


def _pressed(kept: int, load: Load) -> bool:
    """Whether what waits is reason for more replicas."""
    if not load.waiting:
        return False
    return not kept or load.waited_s >= PATIENCE_S or load.waiting >= kept * max(1, load.places)


def _replicas(requests: int, places: int) -> int:
    """How many replicas have places for so many; one when it is not known how many a replica takes."""
    return ceil(requests / places) if places else min(1, requests)

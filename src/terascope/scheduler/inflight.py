"""How many requests an engine gets at once, so that the rest wait here, in our order, and not in the engine's queue.

An engine that says how many it runs gets that many. Of another it is found out from the time to the first byte of its
answers: while even the quickest of the last few took much longer than answers take at best, requests wait in the
engine, and the limit goes down; while it is reached and they do not, it goes up. To look at the minimum over a window
is CoDel's way of telling a standing queue from a burst (Nichols, Jacobson: Controlling Queue Delay, ACM Queue 2012); up
by little and down by a part is AIMD's.
"""

from terascope.core.projects import Qos

_START = 1024
_LEAST, _MOST = 4, 1 << 16
_WINDOW = 16  # first bytes
_SLOWER, _SLOWER_S = 2.0, 0.1  # than the best: by this factor and this many seconds
_DOWN, _UP = 0.8, 1 / 8
_FORGETS = 1.01  # the best time is forgotten slowly, by this factor a window: an engine may have become slower


class InFlightLimit:
    """The limit of one replica."""

    def __init__(self, slots: int = 0, extra: int = 0, *, most: int = 0) -> None:
        """`slots` is how many the engine says it runs, 0 when it does not; `extra` how many urgent ones beyond.

        `most` is what an operator says, 0 when nobody does.
        """
        self.value = most or (slots + _backlog(slots) if slots else _START)
        self.extra = 0 if most else extra
        self._fixed = bool(most or slots)
        self._best = float("inf")
        self._quickest = float("inf")
        self._seen = 0
        self._reached = False

    @property
    def known(self) -> bool:
        """Whether the limit was said or found out; else it only stands for many."""
        return self._fixed or self.value < _START

    def room(self, in_flight: int, qos: Qos) -> int:
        """How many more requests of `qos` the engine may get while it has `in_flight`."""
        return max(0, self.value + (0 if qos is Qos.BATCH else self.extra) - in_flight)

    def first_byte(self, seconds: float, in_flight: int) -> None:
        """An answer's first byte came after so long; `in_flight` requests were with the engine then."""
        if self._fixed:
            return
        self._quickest = min(self._quickest, seconds)
        self._reached = self._reached or in_flight >= self.value
        self._seen += 1
        if self._seen >= _WINDOW:
            self._adapt(in_flight)

    def _adapt(self, in_flight: int) -> None:
        self._best = min(self._best * _FORGETS, self._quickest)
        if self._quickest > _SLOWER * self._best + _SLOWER_S:
            self.value = max(_LEAST, int(min(self.value, in_flight) * _DOWN))
        elif self._reached:
            self.value = min(_MOST, self.value + max(1, int(self.value * _UP)))
        self._quickest, self._seen, self._reached = float("inf"), 0, False


def _backlog(slots: int) -> int:
    """A few wait in the engine, so that it need not wait for us when one ends."""
    return max(1, slots // 16)

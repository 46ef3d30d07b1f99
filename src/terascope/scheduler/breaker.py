"""A circuit breaker: a replica that loses one request after the other gets no more, but for one now and then.

It is closed while requests succeed. After `MOST_LOST` losses in a row, each of another request, it is open: requests go
elsewhere, where they can. After a pause, which doubles from one second to a minute, it is half open: one request tries
whether the replica is back. One that succeeds closes it.
"""

MOST_LOST = 5
_FIRST_S, _LONGEST_S = 1.0, 60.0


class Breaker:
    """What is known of one replica. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.lost = 0
        """Requests that were lost in a row."""
        self._pause_s = _FIRST_S
        self._until = 0.0

    @property
    def closed(self) -> bool:
        """Whether there is nothing against it."""
        return self.lost < MOST_LOST

    def admits(self, now: float, in_flight: int) -> bool:
        """Whether another request may be sent to the replica, which is answering `in_flight`."""
        return self.closed or (now >= self._until and not in_flight)

    def failed(self, now: float) -> None:
        """A request was lost that had not been counted before."""
        before, self.lost = self.closed, self.lost + 1
        if self.closed or (not before and now < self._until):
            return
        self._until = now + self._pause_s
        self._pause_s = min(_LONGEST_S, 2 * self._pause_s)

    def succeeded(self) -> None:
        """A request was answered to its end."""
        if self.lost:
            self.lost, self._pause_s, self._until = 0, _FIRST_S, 0.0

"""Time enters only here, so that tests can hold it still."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Where a room gets the time from. `terascope.testing.ManualClock` is the other implementation."""

    def now(self) -> float:
        """Return seconds since the epoch (UTC)."""
        ...

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back; only differences mean something."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`; cancellable."""
        ...


class SteadyTime:
    """The time of `clock`, but never set back: at least as much passes as on its monotonic clock.

    For what must end when it should, even when somebody corrects the machine's time. A clock that was ahead when this
    began and is set right later stays ahead here until the next start.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start = clock.now() - clock.monotonic()

    def now(self) -> float:
        """Return seconds since the epoch (UTC)."""
        return max(self._clock.now(), self._start + self._clock.monotonic())

    @property
    def set_back(self) -> float:
        """By how many seconds the clock has been set back since this began."""
        return self.now() - self._clock.now()


class SystemClock:
    """The machine's own clock."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

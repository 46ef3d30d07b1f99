"""Clocks and a loop whose time passes as a test says."""

import asyncio
import heapq
import selectors
from collections.abc import Callable
from itertools import count


class ManualClock:
    """`Clock` whose time passes only in `advance`; sleepers wake in the order of their times.

    Sleeps shorter than `real_below_s` are real and move nothing: for tests in which a real program is looked at
    again and again until it is up, while long waits stand still.
    """

    def __init__(self, now: float = 1_800_000_000.0, *, real_below_s: float = 0.0) -> None:
        self._epoch = now
        self._real_below_s = real_below_s
        self._elapsed = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = count()
        self._changed = asyncio.Event()

    def now(self) -> float:
        return self._epoch + self._elapsed

    def monotonic(self) -> float:
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        if seconds < self._real_below_s:
            await asyncio.sleep(seconds)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed + seconds, next(self._numbers), woken))
        self._changed.set()
        if seconds <= 0:
            self.advance(0.0)
        await woken

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass and wake whoever slept until then; they run once the caller waits for something."""
        self._elapsed += seconds
        while self._sleepers and self._sleepers[0][0] <= self._elapsed:
            *_, woken = heapq.heappop(self._sleepers)
            if not woken.done():
                woken.set_result(None)

    def set_wall(self, seconds: float) -> None:
        """Set the wall clock forward or, below 0, back; nothing else passes, as when somebody corrects the time."""
        self._epoch += seconds

    def waits(self) -> list[float]:
        """How long each sleeper still has to sleep, the shortest first."""
        return sorted(due - self._elapsed for due, _, woken in self._sleepers if not woken.done())

    async def slept(self, seconds: float) -> None:
        """Return once somebody sleeps who has `seconds` left: the event that a test waits for before `advance`."""
        while not any(abs(left - seconds) < 1e-6 for left in self.waits()):
            self._changed.clear()
            await self._changed.wait()


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop whose time stands still while anything can run, and jumps to the next timer when nothing can.

    For code that uses the loop's own timers: hours pass at once, and to the microsecond. Sockets, threads and
    processes are not waited for before a jump.
    """

    def __init__(self) -> None:
        self._simulated = 0.0
        super().__init__(_JumpingSelector(self._jump))

    def time(self) -> float:
        return self._simulated

    def _jump(self, seconds: float) -> None:
        self._simulated += seconds


class _JumpingSelector(selectors.DefaultSelector):
    """Moves the time instead of waiting."""

    def __init__(self, jump: Callable[[float], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout:
            self._jump(timeout)
        return super().select(None if timeout is None else 0)

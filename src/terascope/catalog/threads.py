"""Blocking work off the event loop, that can be told to stop."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from terascope.catalog.sources.contract import Progress

_Result = TypeVar("_Result")


class Stopped(Exception):
    """Raised inside a job when it sees that nobody waits for it any more."""


class Work:
    """What running work is given: whether to go on, and where to tell how far it is. Usable from any thread."""

    def __init__(self, progress: Progress | None = None) -> None:
        self._stop = threading.Event()
        self._progress = progress
        self._loop = asyncio.get_running_loop()

    def stop(self) -> None:
        """Make the next `check` raise."""
        self._stop.set()

    def check(self) -> None:
        """Raise `Stopped` when the work is no longer wanted."""
        if self._stop.is_set():
            raise Stopped

    def report(self, message: str, fraction: float | None = None) -> None:
        """Tell how far the work is; the listener is called in the event loop's thread."""
        if self._progress is not None:
            self._loop.call_soon_threadsafe(self._progress, message, fraction)


async def in_thread(job: Callable[[Work], _Result], progress: Progress | None = None) -> _Result:
    """Run `job` in a thread and return its result.

    On cancellation the job is told to stop, and this returns only once it has: nothing goes on behind the
    caller's back.
    """
    work = Work(progress)
    return await to_the_end(asyncio.to_thread(job, work), on_cancel=work.stop)


async def to_the_end(what: Coroutine[Any, Any, _Result], on_cancel: Callable[[], None] | None = None) -> _Result:
    """Await `what` and return its result; when cancelled, call `on_cancel`, and still return only at its end."""
    running = asyncio.ensure_future(what)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        if on_cancel:
            on_cancel()
        await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # looked at, so that it is not reported as lost: the cancellation is what counts
        raise

"""One fetch of a thing at a time, over all processes of the machine."""

import fcntl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

from terascope.core.clock import Clock

_LOOK_AGAIN_S = 0.2


@asynccontextmanager
async def locked(path: Path, clock: Clock, waiting: Callable[[], None]) -> AsyncIterator[None]:
    """Hold the lock file `path`; `waiting` is called once when another process holds it.

    The kernel frees the lock when its holder ends, however it ends. It tells nobody, so a waiter looks again
    five times a second rather than block in a thread that cannot be cancelled. The file stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        if not _taken(file):
            waiting()
            while not _taken(file):
                await clock.sleep(_LOOK_AGAIN_S)
        yield


def _taken(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

"""For engines that need no process: a remote server, or one that answers inside the gateway."""

import asyncio
import errno
from collections.abc import AsyncIterator

from terascope.fleet.launchers.contract import Handle, Observation, Place, Program, Sight


class InProcessLauncher:
    """Starts nothing: what it was asked to start runs until it is stopped or the gateway ends."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Event] = {}

    def place(self, program_id: str) -> Place | None:
        return None

    async def start(self, program: Program) -> AsyncIterator[Handle]:
        if program.arguments:
            raise OSError(errno.ENOEXEC, "this launcher starts no program", program.arguments[0])
        self._running[program.id] = asyncio.Event()
        yield {"id": program.id}

    async def observe(self, handle: Handle) -> Observation:
        return Observation(Sight.KNOWN) if handle.get("id") in self._running else _GONE

    async def ended(self, handle: Handle) -> Observation:
        if running := self._running.get(str(handle.get("id"))):
            await running.wait()
        return _GONE

    async def stop(self, handle: Handle, *, grace_s: float) -> None:
        if running := self._running.pop(str(handle.get("id")), None):
            running.set()


_GONE = Observation(Sight.GONE, reason="was stopped, or belonged to an earlier life of the gateway")

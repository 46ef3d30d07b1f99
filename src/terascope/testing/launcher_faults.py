"""Launchers that fail in named ways, around a real one."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from terascope.fleet.launchers.contract import Handle, Launcher, Observation, Place, Program, Sight


class AroundLauncher:
    """Does what the launcher inside does; the faults below change one thing each."""

    def __init__(self, inside: Launcher) -> None:
        self.inside = inside

    def place(self, program_id: str) -> Place | None:
        return self.inside.place(program_id)

    def start(self, program: Program) -> AsyncIterator[Handle]:
        return self.inside.start(program)

    async def observe(self, handle: Handle) -> Observation:
        return await self.inside.observe(handle)

    async def ended(self, handle: Handle) -> Observation:
        return await self.inside.ended(handle)

    async def stop(self, handle: Handle, *, grace_s: float) -> None:
        await self.inside.stop(handle, grace_s=grace_s)


class ForgetfulLauncher(AroundLauncher):
    """Starts and stops, but cannot see: a scheduler whose job ids vanish from its listings."""

    async def observe(self, handle: Handle) -> Observation:
        return Observation(Sight.UNKNOWN, reason="the scheduler does not know that job")

    async def ended(self, handle: Handle) -> Observation:
        await asyncio.Event().wait()
        return Observation(Sight.UNKNOWN)


class BreakingLauncher(AroundLauncher):
    """Dies after so many steps of a start, the first `times` times, leaving behind what the steps made."""

    def __init__(self, inside: Launcher, *, steps: int, times: int = 1) -> None:
        super().__init__(inside)
        self.steps = steps
        self.times = times

    async def start(self, program: Program) -> AsyncIterator[Handle]:
        broken, self.times = self.times > 0, self.times - 1
        step = 0
        async for handle in self.inside.start(program):
            yield handle
            step += 1
            if broken and step == self.steps:
                raise RuntimeError("the launcher broke between two steps")


class RefusingLauncher(AroundLauncher):
    """Refuses the first `times` starts: a queue that is closed, an account that is not allowed."""

    def __init__(self, inside: Launcher, *, times: int = 1) -> None:
        super().__init__(inside)
        self.times = times

    async def start(self, program: Program) -> AsyncIterator[Handle]:
        if self.times > 0:
            self.times -= 1
            raise PermissionError("the partition takes no jobs")
        async for handle in self.inside.start(program):
            yield handle


class UnstoppingLauncher(AroundLauncher):
    """Fails to stop the first `times` times: a scheduler that does not answer."""

    def __init__(self, inside: Launcher, *, times: int = 1) -> None:
        super().__init__(inside)
        self.times = times

    async def stop(self, handle: Handle, *, grace_s: float) -> None:
        if self.times > 0:
            self.times -= 1
            raise TimeoutError("the scheduler does not answer")
        await self.inside.stop(handle, grace_s=grace_s)


class QueueingLauncher(AroundLauncher):
    """Its programs seem to wait in a queue while `queue` says why; they listen at sockets below `directory`."""

    def __init__(self, inside: Launcher, directory: Path, *, queue: str) -> None:
        super().__init__(inside)
        self.queue = queue
        self._directory = directory

    def place(self, program_id: str) -> Place | None:
        path = self._directory / f"{program_id[-8:]}.sock"
        return Place(str(path), f"unix:{path}")

    async def observe(self, handle: Handle) -> Observation:
        seen = await super().observe(handle)
        return replace(seen, reason=self.queue, waiting=True) if self.queue else seen

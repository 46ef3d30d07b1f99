"""One life of a trainer: started by the launcher, followed to its end."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terascope.core.clock import Clock
from terascope.engines.torch.tuning.job import PROGRESS
from terascope.fleet.launchers.contract import Handle, Launcher, Observation, Program, Sight
from terascope.fleet.logs import log_file
from terascope.store.tuning import JobChange, JobRow, TuningStore
from terascope.tuning.telling import Reading, Told, told_since

TRAINER = "terascope.engines.torch.trainer"
"""The module that is run."""
_LOOK_S = 0.5
GRACE_S = 5.0
"""Seconds that a trainer has to end; one that is killed goes on from its last checkpoint."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a trainer ended: the job as it is then, its exit code where that is known, its last word if it had one."""

    row: JobRow
    exit_code: int | None
    last: Told | None


class Attempt:
    """Starts trainers of jobs, one after the other, and writes down what they tell."""

    def __init__(
        self, launcher: Launcher, store: TuningStore, clock: Clock, data_dir: Path, *, trainer: str = TRAINER
    ) -> None:
        self._launcher, self._store, self._clock, self._data_dir = launcher, store, clock, data_dir
        self._trainer = trainer

    async def run(self, row: JobRow, directory: Path) -> Ended:
        """Let a trainer work in `directory` until it ends. On any raise and on cancellation nothing of it is left.

        What it told is in the job's events, once, whatever happened. Raises `OSError` when it cannot be started, and
        `Conflict` when the job was ended meanwhile.
        """
        await self.stop(row.handle)  # what an earlier life of the gateway may have left
        async with self._started(row, directory) as handle:
            ending = asyncio.ensure_future(self._launcher.ended(handle))
            try:
                last = None
                while not ending.done() and last is None:
                    await self._pause(ending)
                    row, last = await self._read(row, directory, last)
                seen = await ending
            finally:
                ending.cancel()
        while True:
            before = row.read
            row, last = await self._read(row, directory, last)
            if row.read == before:
                return Ended(row, _code(seen), last)

    async def stop(self, handle: Handle) -> None:
        """Leave nothing of the program of `handle`. Raises `OSError` when it cannot be stopped now."""
        if handle:
            await self._launcher.stop(handle, grace_s=GRACE_S)

    @asynccontextmanager
    async def _started(self, row: JobRow, directory: Path) -> AsyncIterator[Handle]:
        command = (sys.executable, "-m", self._trainer, str(directory))
        log = log_file(self._data_dir, row.id)
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        program = Program(row.id, command, log=log)
        handle: Handle = {}
        try:
            async for handle in self._launcher.start(program):
                await self._store.change(JobChange(row.id, self._clock.now(), {"handle": dict(handle)}))
            yield handle
        finally:
            await asyncio.shield(self.stop(handle))

    async def _pause(self, ending: "asyncio.Future[Observation]") -> None:
        """Until it is time to look again, or the trainer has ended."""
        looking = asyncio.ensure_future(self._clock.sleep(_LOOK_S))
        either: list[asyncio.Future[Any]] = [looking, ending]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            looking.cancel()

    async def _read(self, row: JobRow, directory: Path, last: Told | None) -> tuple[JobRow, Told | None]:
        """Write down what was told since, and up to where that is, in one."""
        lines, end = await asyncio.to_thread(told_since, directory / PROGRESS, row.read)
        if not lines:
            return row, last
        reading = Reading(row).take(lines)
        values = reading.values | {"read": end}
        row = await self._store.change(JobChange(row.id, self._clock.now(), values, reading.said))
        return row, reading.ended or last


def _code(seen: Observation) -> int | None:
    return seen.exit_code if seen.sight is Sight.GONE else None

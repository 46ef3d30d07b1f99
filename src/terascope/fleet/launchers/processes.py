"""Processes of this machine, named so that a recycled process id is never mistaken for an old one (Linux)."""

import asyncio
import errno
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from terascope.core.clock import Clock
from terascope.fleet.launchers.guard import descendants, stat

MARK = "TERASCOPE_PROGRAM"
"""The variable that tells whose a process is; every program that the local launcher starts carries it."""

_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class Process:
    """A process id with its start time in clock ticks since boot; together they are unique until the next boot."""

    pid: int
    started: int

    @classmethod
    def find(cls, pid: int) -> "Process | None":
        """Return the process that has that id now, None when there is none."""
        try:
            return cls(pid, stat(pid)[2])
        except OSError:
            return None

    def alive(self) -> bool:
        """Whether it runs; a zombie does not."""
        try:
            state, _, started = stat(self.pid)
        except OSError:
            return False
        return started == self.started and state not in "ZX"

    def send(self, number: signal.Signals) -> None:
        """Send a signal to it and to no other; nothing happens when it has ended."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
            if self.alive():  # a kernel before 5.3: look, then leap
                os.kill(self.pid, number)
            return
        try:
            if self.alive():  # the descriptor holds the process, so the look is still true at the leap
                signal.pidfd_send_signal(fd, number)
        except ProcessLookupError:
            return
        finally:
            os.close(fd)

    def tree(self) -> list["Process"]:
        """Return it and its living descendants; empty when it has ended."""
        if not self.alive():
            return []
        found = (Process.find(pid) for pid in (self.pid, *descendants(self.pid)))
        return [process for process in found if process]

    async def ended(self, clock: Clock) -> None:
        """Return when it has ended: at once where the kernel can tell (5.3 and later), else within 0.1 s."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        except OSError:
            while self.alive():
                await clock.sleep(_LOOK_S)
            return
        try:
            if self.alive():
                await _readable(fd)
        finally:
            os.close(fd)


def marked(program_id: str) -> list[Process]:
    """Return the living processes that carry the mark of that program."""
    mark = f"{MARK}={program_id}".encode()
    found = (Process.find(int(entry.name)) for entry in Path("/proc").iterdir() if _carries(entry, mark))
    return [process for process in found if process and process.alive()]


def boot_id() -> str:
    """Return a name of this boot of the machine: ids and start times of another boot mean nothing."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _carries(entry: Path, mark: bytes) -> bool:
    if not entry.name.isdigit():
        return False
    try:
        return mark in (entry / "environ").read_bytes().split(b"\0")
    except OSError:  # another user's, or it has just ended
        return False


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(fd, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_reader(fd)

"""Small real programs for launchers to start, and the pipe through which they speak to a test.

They need nothing but Python's standard library, and behave as a site's programs do at their worst: ignore
SIGTERM, fork children that leave their session, die while they load, never answer.
"""

import asyncio
import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from terascope.fleet.launchers.contract import Program

_HEAD = """
import fcntl, os, signal, sys, time
def tell(pipe, *words):
    with open(pipe, "a") as file: print(*words, file=file, flush=True)
def hold(path):
    global held
    held = open(path, "a")
    fcntl.flock(held, fcntl.LOCK_SH)
"""

_JOB = """
print("said to the standard output", flush=True)
print("said to the standard error", file=sys.stderr, flush=True)
sys.exit(int(sys.argv[1]))
"""

_SERVER = """
pipe, lock, stubborn, children = sys.argv[1], sys.argv[2], sys.argv[3] == "stubborn", int(sys.argv[4])
signal.signal(signal.SIGTERM, signal.SIG_IGN if stubborn else lambda *_: os._exit(0))
hold(lock)
for number in range(children):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            tell(pipe, "child", os.getpid())
            while True: time.sleep(60)
        os._exit(0)
tell(pipe, "up", os.getpid(), os.environ.get("TERASCOPE_REPLICA_SECRET", ""), *sys.argv)
while True: time.sleep(60)
"""


def job(exit_code: int, *, log: Path | None = None) -> Program:
    """A job that says a line to each of its outputs and ends."""
    return Program(f"job-{uuid4().hex}", _python(_JOB, str(exit_code)), log=log)


def server(pipe: "Pipe", *, stubborn: bool = False, children: int = 0, secret: str = "") -> Program:
    """A server that runs until it gets SIGTERM, or for ever when it is `stubborn`.

    Its `children` leave its process group and its session, and their parents end at once. Program and children
    hold `pipe.lock` and tell `pipe` when they are up: `child PID` and `up PID SECRET ARGUMENTS`.
    """
    words = (str(pipe.path), str(pipe.lock), "stubborn" if stubborn else "obedient", str(children))
    secrets = {"TERASCOPE_REPLICA_SECRET": secret} if secret else {}
    return Program(f"server-{uuid4().hex}", _python(_SERVER, *words), environment=secrets)


def missing() -> Program:
    """A program that is not there."""
    return Program(f"missing-{uuid4().hex}", ("/nowhere/no-such-program",))


def _python(source: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", _HEAD + source, *arguments)


class Pipe:
    """A named pipe that programs tell things to, and a lock that they hold while they live."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / f"pipe-{uuid4().hex[:8]}"
        self.lock = self.path.with_suffix(".lock")
        os.mkfifo(self.path, 0o600)
        self._fd = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
        self._read = b""

    async def line(self) -> list[str]:
        """Return the words of the next line that was told."""
        while b"\n" not in self._read:
            await _readable(self._fd)
            self._read += os.read(self._fd, 4096)
        line, _, self._read = self._read.partition(b"\n")
        return line.decode().split()

    async def up(self, lines: int = 1) -> list[list[str]]:
        """Return the next lines, in the order of their first words."""
        return sorted([await self.line() for _ in range(lines)])

    def nobody_lives(self) -> bool:
        """Whether no program or child holds the lock now."""
        with self.lock.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    async def all_dead(self) -> None:
        """Return once no program or child holds the lock."""
        await asyncio.to_thread(self._wait_for_lock)

    def _wait_for_lock(self) -> None:
        with self.lock.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)

    def close(self) -> None:
        """Close the pipe."""
        os.close(self._fd)


@contextmanager
def pipe_in(directory: Path) -> Iterator[Pipe]:
    """A pipe that is closed in the end."""
    pipe = Pipe(directory)
    try:
        yield pipe
    finally:
        pipe.close()


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(fd, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_reader(fd)

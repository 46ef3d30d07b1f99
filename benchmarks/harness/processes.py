"""Processes a benchmark starts: pinned to cores, waited for, weighed, and always stopped.

Linux only: what a process weighs and who its children are is read from /proc.
"""

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

PAGE = resource.getpagesize()
ENDINGS = (signal.SIGTERM, signal.SIGHUP)


class Failed(RuntimeError):
    """The benchmark cannot go on; the message says why and what to do."""


class Process:
    """A program in a session of its own, so that one signal reaches all of it. Use as a context manager."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        cores: set[int] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start `command`, writing what it prints to `log`; `cores` pins it and all its children."""
        pin = ["taskset", "-c", ",".join(map(str, sorted(cores)))] if cores else []
        self.log = log
        self.started = time.perf_counter()
        with log.open("wb") as out:
            self._popen = subprocess.Popen(
                [*pin, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        self.pid = self._popen.pid
        self._born = _birth(self.pid)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def running(self) -> bool:
        """Whether the program itself still runs."""
        return self._popen.poll() is None

    def wait_until(self, ready: Callable[[], bool], *, timeout: float, every: float = 0.005) -> float:
        """Return seconds from start until `ready()` was true. Raises Failed when the program ends or takes too long."""
        while not ready():
            if not self.running():
                raise Failed(f"{self._popen.args!r} ended with {self._popen.returncode}:\n{self.tail()}")
            if time.perf_counter() - self.started > timeout:
                raise Failed(f"{self._popen.args!r} was not ready in {timeout:g} s:\n{self.tail()}")
            time.sleep(every)
        return time.perf_counter() - self.started

    def tail(self, characters: int = 2000) -> str:
        """The end of what the program printed."""
        return self.log.read_text(errors="replace")[-characters:]

    def rss_mb(self) -> float:
        """Resident memory of the program and all its children, in MiB."""
        return sum(_rss(pid) for pid in tree(self.pid)) / 2**20

    def cpu_s(self) -> float:
        """Processor time that the program itself has used so far."""
        fields = _stat(self.pid)
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0

    def stop(self, patience: float = 15.0) -> None:
        """End the program and its children: politely, then by force. Idempotent; a second Ctrl-C waits for it."""
        with _undisturbed():
            self._end(patience)

    def _end(self, patience: float) -> None:
        family = self._family()
        if self.running():
            os.killpg(self.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._popen.wait(patience)
        family |= self._family()
        while left := [pid for pid, born in family.items() if born and _birth(pid) == born]:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)
        self._popen.wait()

    def _family(self) -> dict[int, str]:
        """The program and its children with their births, by which a number that was given again is told."""
        reused = _birth(self.pid) not in ("", self._born)
        return {} if reused else {pid: _birth(pid) for pid in tree(self.pid)}


def tree(pid: int) -> list[int]:
    """`pid`, all its descendants, and whatever else is left of the session it leads."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            _, parent, _, session = fields[:4]
            children.setdefault(int(parent), []).append(int(entry.name))
            if int(session) == pid and int(parent) == 1:  # its parent has died, it has not
                children.setdefault(pid, []).append(int(entry.name))
    found = [pid]
    for one in found:  # grows while it is walked
        found.extend(children.get(one, []))
    return found


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; none when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _birth(pid: int) -> str:
    fields = _stat(pid)
    return fields[19] if fields and fields[0] != "Z" else ""


def _rss(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return 0


class Peak:
    """The largest RSS seen so far, in MiB."""

    mb = 0.0


@contextmanager
def peak_rss(process: Process, every: float = 0.5) -> Iterator[Peak]:
    """Watch the memory of `process` while the block runs."""
    peak, ended = Peak(), threading.Event()

    def watch() -> None:
        while True:
            peak.mb = max(peak.mb, process.rss_mb())
            if ended.wait(every):
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()
        peak.mb = max(peak.mb, process.rss_mb())


def answers(url: str) -> Callable[[], bool]:
    """A check that `url` answers 200."""

    def check() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=5) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    return check


def free_port() -> int:
    """A TCP port of the loopback address that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def split_cores() -> tuple[set[int], set[int]]:
    """One core for what is measured, and the others for what drives it. Raises Failed on a single core."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise Failed("this benchmark needs two cores: one for what is measured, one for what drives it")
    return {cores[0]}, set(cores[1:])


def run(name: str, main: Callable[[], None]) -> NoReturn:
    """Run benchmark `name` and exit. However it ends, short of SIGKILL, what it started has been stopped."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for number in ENDINGS:
        signal.signal(number, _stopped)
    try:
        main()
    except Failed as failure:
        sys.exit(f"{name}: {failure}")
    except KeyboardInterrupt:
        sys.exit(f"{name}: interrupted")
    sys.exit()


def _stopped(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold back the signals that would unwind this process."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *ENDINGS})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

"""The guard: a small process that stands between the gateway and one program, and outlives neither.

Run by its path with `python -I -S` (the standard library only, about 10 MB), as

    guard.py GRACE LOG PROGRAM [ARGUMENT...]

It holds one end of a pipe from the gateway. When the pipe closes, because the gateway closed it or was killed,
the guard ends the program: SIGTERM to its process group and, once it has ended, to its children elsewhere; after
GRACE seconds SIGKILL to all that descends from it. Descendants cannot escape by `setsid` or by double forks: the
guard is their reaper (PR_SET_CHILD_SUBREAPER), so what loses its parent becomes the guard's own child. If the guard
itself is killed, the kernel kills the program (PR_SET_PDEATHSIG).

What the program and its descendants print goes through a pipe into the file LOG, which keeps the newest of it: a
program that says too much fills no disk, and a full disk neither ends a program nor holds it up.

It reads lines: `go` starts the program, `stop SECONDS` ends it with that grace. It writes lines:
`started PID TICKS`, `failed ERRNO` when the program cannot be started, `ended CODE` (negative: a signal) as soon
as the program has ended, `done` when nothing of it is left.
"""

import ctypes
import errno
import os
import select
import signal
import sys
import time

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_FIRST_TO_KILL = "500"  # for the kernel when memory runs out: the program, not the gateway
MOST_LOG = 16 << 20
"""Bytes of a log; before it grows beyond them its older part is given up."""
_KEPT_LOG = 4 << 20  # bytes of it that stay then
_LEAST_LOG = 64 << 10  # bytes that are not given up for what comes, even on a full disk
_PIECE = 64 << 10
_PIECES = 16  # more than a pipe holds
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_CUT = b"[what was here before is not kept]\n"


def stat(pid: int | str) -> tuple[str, int, int]:
    """Return state, parent and start time (in clock ticks since boot) of a process.

    Raises `OSError` when there is no such process.
    """
    fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    try:
        fields = os.read(fd, 4096).rpartition(b")")[2].split()
    finally:
        os.close(fd)
    return fields[0].decode(), int(fields[1]), int(fields[19])


def descendants(root: int) -> list[int]:
    """Return the ids of all living descendants of the process `root`, parents first."""
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208 - pathlib would double the guard's size
        try:
            state, parent, _ = stat(name)
        except OSError:
            continue
        if state not in "ZX":
            children.setdefault(parent, []).append(int(name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found[1:]


class Guard:
    """Watches over one program until nothing of it is left."""

    def __init__(self, grace: float, log: str, arguments: list[str]) -> None:
        self._grace = grace
        self._path = log
        self._log: Log | None = None  # once the program was started, until nobody prints any more
        self._arguments = arguments
        self._program = 0
        self._ended = False
        self._deadline: float | None = None  # when the program is killed; None: nobody asked it to end
        self._input = b""
        self._connected = True
        self._signals, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)

    def run(self) -> None:
        """Wait for `go`, start the program, return when it and all its descendants have ended."""
        while not self._program and self._deadline is None:
            self._wait()
        while self._program and self._something_is_left():
            if self._late() or (self._ended and self._deadline is None):
                for pid in descendants(os.getpid()):
                    _send(pid, signal.SIGKILL)
            self._wait()
        if self._log:
            self._log.take_all()

    def _wait(self) -> None:
        """Wait for a signal, lines, output or the deadline, and do what they say."""
        sources = [self._signals, *([0] if self._connected else []), *([self._log.reading] if self._log else [])]
        left = None if self._deadline is None or self._late() else self._deadline - time.monotonic()
        readable, _, _ = select.select(sources, [], [], left and max(0.0, left))
        if self._signals in readable and {signal.SIGTERM, signal.SIGINT}.intersection(os.read(self._signals, 512)):
            self._stop(self._grace)
        if 0 in readable:
            self._listen(os.read(0, 512))
        if self._log and self._log.reading in readable and not self._log.take():
            self._log = None

    def _listen(self, read: bytes) -> None:
        if not read:  # the gateway is gone
            self._connected = False
            self._stop(self._grace)
        *lines, self._input = (self._input + read).split(b"\n")
        for word, *rest in map(bytes.split, lines):
            if word == b"go" and self._deadline is None:
                self._start()
            elif word == b"stop":
                self._stop(float(rest[0]))

    def _start(self) -> None:
        try:
            log = Log(self._path)
            self._program = start(log, self._arguments)
        except OSError as error:
            self._deadline = time.monotonic()
            say("failed", error.errno or 0)
        else:
            self._log = log
            say("started", self._program, stat(self._program)[2])

    def _stop(self, grace: float) -> None:
        deadline = time.monotonic() + grace
        self._deadline = deadline if self._deadline is None else min(self._deadline, deadline)
        if self._program and not self._ended:
            os.killpg(self._program, signal.SIGTERM)

    def _late(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _something_is_left(self) -> bool:
        """Bury the dead; tell of the program's end; return whether any child lives."""
        try:
            while (dead := os.waitpid(-1, os.WNOHANG))[0]:
                if dead[0] == self._program:
                    self._bereave(os.waitstatus_to_exitcode(dead[1]))
        except ChildProcessError:
            return False
        return True

    def _bereave(self, code: int) -> None:
        """The program has ended. If it was told to, its children that left its group have not been told yet."""
        self._ended = True
        if self._log:
            self._log.take_all()  # whoever is told of the end looks for its last words
        say("ended", code)
        if self._deadline is not None:
            for pid in descendants(os.getpid()):
                _send(pid, signal.SIGTERM, but_not_in=self._program)


class Log:
    """The newest of what a program prints, in a file. What finds no room on its disk is lost."""

    def __init__(self, path: str) -> None:
        """Raises `OSError` when the file cannot be written."""
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.reading, False)

    def take(self) -> bool:
        """Take in a piece of what was printed; false when no process is left that could print more."""
        try:
            data = os.read(self.reading, _PIECE)
        except BlockingIOError:
            return True
        self._keep(data)
        return bool(data)

    def take_all(self) -> None:
        """Take in what waits in the pipe; not what is printed on and on meanwhile."""
        for _ in range(_PIECES):
            self.take()

    def _keep(self, data: bytes) -> None:
        try:
            if os.fstat(self._file).st_size + len(data) > MOST_LOG:
                self._shorten(_KEPT_LOG)
            while data:
                data = data[self._written(data) :]
        except OSError:  # the program goes on without its log
            return

    def _written(self, data: bytes) -> int:
        """Write some of `data`, or make room for it where the disk is full; return how much was written."""
        try:
            return os.write(self._file, data)
        except OSError as error:
            size = os.fstat(self._file).st_size
            if error.errno not in _NO_ROOM or size < _LEAST_LOG:
                raise
            self._shorten(size // 2)
            return 0

    def _shorten(self, kept: int) -> None:
        """Give up all but the last `kept` bytes. Followers read the file by its path: it stays the same file."""
        rest = os.pread(self._file, kept, max(0, os.fstat(self._file).st_size - kept))
        os.ftruncate(self._file, 0)
        os.write(self._file, _CUT + rest.partition(b"\n")[2])


def start(log: Log, arguments: list[str]) -> int:
    """Start the program in a session of its own and return its process id.

    Raises `OSError` when there is no such program.
    """
    reading, writing = os.pipe()
    guard = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become(arguments, log.writing, writing, guard)
    os.close(log.writing)
    os.close(writing)
    failure = os.read(reading, 32)  # empty when exec closed the pipe
    os.close(reading)
    if failure:
        os.waitpid(pid, 0)
        raise OSError(int(failure), os.strerror(int(failure)), arguments[0])
    return pid


def _become(arguments: list[str], output: int, failure: int, guard: int) -> None:
    """The child's side of `start`: become the program, or tell `failure` why not."""
    try:
        os.setsid()
        os.umask(0o077)  # sockets and files of the program are its user's alone
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these, and exec would pass that on
            signal.signal(number, signal.SIG_DFL)
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:  # it died before the line above
            os._exit(1)
        _volunteer()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.execvp(arguments[0], arguments)  # noqa: S606 - what a launcher is for
    except OSError as error:
        os.write(failure, str(error.errno or 0).encode())
    finally:
        os._exit(127)


def _volunteer() -> None:
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(fd, _FIRST_TO_KILL.encode())
        os.close(fd)
    except OSError:  # a container may forbid it; then memory is shared out without our advice
        return


def prctl(option: int, argument: int) -> None:
    """Linux' `prctl(2)`, for the options that take one number."""
    ctypes.CDLL(None).prctl(option, ctypes.c_ulong(argument), 0, 0, 0)


def say(*words: object) -> None:
    """Write one line to the gateway, if it is still there."""
    try:
        os.write(1, (" ".join(map(str, words)) + "\n").encode())
    except OSError:
        return


def _send(pid: int, number: signal.Signals, *, but_not_in: int = 0) -> None:
    try:
        if os.getpgid(pid) != but_not_in:
            os.kill(pid, number)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    Guard(float(sys.argv[1]), sys.argv[2], sys.argv[3:]).run()
    say("done")

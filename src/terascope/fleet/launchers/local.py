"""Programs on this machine, each behind a guard (`guard.py`) that ends it when the gateway is gone."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress

from terascope.core import environment
from terascope.core.clock import Clock
from terascope.fleet.launchers import guard as guard_program
from terascope.fleet.launchers.contract import Handle, Observation, Place, Program, Sight
from terascope.fleet.launchers.processes import MARK, Process, boot_id, marked
from terascope.fleet.waiting import within

_MARGIN_S = 10.0  # beyond the grace: what the kernel may take to end a killed process
_LOOK_S = 0.02


class LocalLauncher:
    """Starts programs as processes of this machine (Linux).

    After `kill -9` of the gateway a program gets SIGTERM, and SIGKILL with all its descendants after
    `orphan_grace_s`. Handles hold process ids with their start times, so what only has the same id is left alone.
    """

    def __init__(self, clock: Clock, *, orphan_grace_s: float = 5.0) -> None:
        self._clock = clock
        self._orphan_grace_s = orphan_grace_s
        self._guards: dict[Process, _Guard] = {}

    def place(self, program_id: str) -> Place | None:
        return None

    async def start(self, program: Program) -> AsyncIterator[Handle]:
        guard = await _Guard.begin(program, self._orphan_grace_s)
        self._guards[guard.process] = guard
        yield guard.handle
        try:
            await guard.go()
        except BaseException:
            guard.let_go()
            self._guards.pop(guard.process, None)
            raise
        yield guard.handle

    async def observe(self, handle: Handle) -> Observation:
        if guard := self._guard(handle):
            return guard.ended.result() if guard.ended.done() else Observation(Sight.KNOWN)
        if "boot" not in handle:
            return Observation(Sight.UNKNOWN, reason="the handle names no process")
        return Observation(Sight.KNOWN) if any(one.alive() for one in _processes(handle)) else _GONE

    async def ended(self, handle: Handle) -> Observation:
        if guard := self._guard(handle):
            return await asyncio.shield(guard.ended)
        for process in _processes(handle):
            await process.ended(self._clock)
        return _GONE

    async def stop(self, handle: Handle, *, grace_s: float) -> None:
        guard = self._guard(handle)
        if guard:
            guard.stop(grace_s)
            await self._at_most(grace_s + _MARGIN_S, guard)
        if not guard or not guard.did_its_duty:
            await self._sweep(handle, grace_s)
        if guard:
            self._guards.pop(guard.process, None)

    def _guard(self, handle: Handle) -> "_Guard | None":
        process = _process(handle, "guard")
        return self._guards.get(process) if process else None

    async def _at_most(self, seconds: float, guard: "_Guard") -> None:
        try:
            await within(self._clock, seconds, guard.gone.wait())
        except TimeoutError:
            raise OSError(f"process {guard.process.pid} and what it watches could not be killed") from None

    async def _sweep(self, handle: Handle, grace_s: float) -> None:
        """End what a guard left that was killed, or that another life of the gateway started."""
        for process in _processes(handle)[:1]:
            process.send(signal.SIGTERM)  # to the guard, which knows what to do
            with suppress(TimeoutError):
                await within(self._clock, grace_s, process.ended(self._clock))
        for _ in range(int(_MARGIN_S / _LOOK_S)):
            left = await asyncio.to_thread(_left, handle)
            if not left:
                return
            for process in left:
                process.send(signal.SIGKILL)
            await self._clock.sleep(_LOOK_S)
        raise OSError(f"processes {', '.join(str(one.pid) for one in left)} could not be killed")


class _Guard:
    """The gateway's end of one guard process."""

    def __init__(self, child: asyncio.subprocess.Process, process: Process, program: Program) -> None:
        self.process = process
        self.handle: dict[str, str | int] = {
            "id": program.id, "boot": boot_id(), "guard": process.pid, "guard_started": process.started,
        }  # fmt: skip
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[Observation] = loop.create_future()
        self.gone = asyncio.Event()
        self.did_its_duty = False
        self._child = child
        self._name = program.arguments[0]
        self._begun: asyncio.Future[OSError | None] = loop.create_future()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def begin(cls, program: Program, orphan_grace_s: float) -> "_Guard":
        """Start a guard that waits for `go`. Raises `OSError`; then nothing is left."""
        if not program.arguments:
            raise OSError("there is no program to start")
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", guard_program.__file__,
            str(orphan_grace_s), str(program.log or os.devnull), *program.arguments,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            env=environment.for_child() | dict(program.environment) | {MARK: program.id},
            start_new_session=True,
        )  # fmt: skip
        process = Process.find(child.pid)
        if process is None:
            await child.wait()
            raise OSError("the guard process ended at once")
        return cls(child, process, program)

    async def go(self) -> None:
        """Have the program started; `handle` then names it. Raises `OSError` when it cannot be started."""
        self._write("go")
        if error := await asyncio.shield(self._begun):
            await self.gone.wait()
            raise error

    def stop(self, grace_s: float) -> None:
        """Have the program ended."""
        self._write(f"stop {grace_s}")

    def let_go(self) -> None:
        """Close the pipe, as the kernel does when the gateway is killed."""
        if self._child.stdin:
            self._child.stdin.close()

    def _write(self, line: str) -> None:
        if self._child.stdin and not self._child.stdin.is_closing():
            self._child.stdin.write(f"{line}\n".encode())

    async def _read(self) -> None:
        """Take in what the guard says, until it is gone."""
        while self._child.stdout and (line := await self._child.stdout.readline()):
            word, *numbers = line.decode().split()
            self._hear(word, [int(number) for number in numbers])
        await self._child.wait()
        self.let_go()
        if not self._begun.done():
            self._begun.set_result(OSError("the guard process has ended"))
        if not self.ended.done():
            reason = "was never started" if self.did_its_duty else "its guard process was killed"
            self.ended.set_result(Observation(Sight.GONE, reason=reason))
        self.gone.set()

    def _hear(self, word: str, numbers: list[int]) -> None:
        if word == "started":
            self.handle = {**self.handle, "program": numbers[0], "program_started": numbers[1]}
            self._begun.set_result(None)
        elif word == "failed":
            self._begun.set_result(OSError(numbers[0], os.strerror(numbers[0]), self._name))
        elif word == "ended":
            self.ended.set_result(Observation(Sight.GONE, numbers[0], describe(numbers[0])))
        elif word == "done":
            self.did_its_duty = True


def describe(exit_code: int) -> str:
    """Say how a program ended; negative codes are signals."""
    if exit_code == 0:
        return "ended"
    if exit_code > 0:
        return f"ended with exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    return f"was killed by {name}"


_GONE = Observation(Sight.GONE, reason="ended while nobody watched")


def _process(handle: Handle, name: str) -> Process | None:
    """The process that `handle` names so."""
    pid, started = handle.get(name), handle.get(f"{name}_started")
    return Process(pid, started) if isinstance(pid, int) and isinstance(started, int) else None


def _processes(handle: Handle) -> list[Process]:
    """Guard and program as the handle names them, if it is of this boot."""
    if handle.get("boot") != boot_id():
        return []
    return [process for name in ("guard", "program") if (process := _process(handle, name))]


def _left(handle: Handle) -> list[Process]:
    """What lives of a program: the processes of its handle, their descendants, and whoever carries its mark."""
    if handle.get("boot") != boot_id():
        return []
    named = [one for process in _processes(handle) for one in process.tree()]
    return list({*named, *marked(str(handle.get("id")))})

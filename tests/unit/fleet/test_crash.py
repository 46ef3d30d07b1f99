"""`kill -9` of the gateway: nothing that it started is left, at whatever moment it comes."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from terascope.core.clock import SystemClock
from terascope.fleet.launchers.local import LocalLauncher
from terascope.fleet.launchers.processes import Process, marked
from terascope.testing.fleet import running_fleet, until
from terascope.testing.programs import Pipe, pipe_in, server
from terascope.testing.small_engine import small_deployment

_LAUNCHING = """
import asyncio, json, sys
from pathlib import Path
from terascope.core.clock import SystemClock
from terascope.fleet.launchers.contract import Program
from terascope.fleet.launchers.local import LocalLauncher

async def main():
    arguments, steps = json.loads(sys.argv[2]), int(sys.argv[3])
    starting = LocalLauncher(SystemClock(), orphan_grace_s=0.2).start(Program(sys.argv[1], arguments))
    for _ in range(steps):
        print(json.dumps(dict(await anext(starting))), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""

_SERVING = """
import asyncio, sys
from pathlib import Path
from terascope.core.clock import SystemClock
from terascope.fleet.launchers.inprocess import InProcessLauncher
from terascope.fleet.launchers.local import LocalLauncher
from terascope.testing.fleet import running_fleet, until
from terascope.testing.small_engine import small_deployment

async def main():
    clock = SystemClock()
    launchers = {"local": LocalLauncher(clock, orphan_grace_s=0.2), "inprocess": InProcessLauncher()}
    async with running_fleet(Path(sys.argv[1]), clock, launchers=launchers) as fleet:
        await fleet.start([small_deployment(replicas=2, behaviour="family")])
        await until(fleet, lambda: len(fleet.replicas_for("small@1")) == int(sys.argv[2]))
        print("up", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@asynccontextmanager
async def _python(source: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", source, *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


@pytest.fixture
async def stubborn(tmp_path: Path) -> AsyncIterator[tuple[Pipe, str, str]]:
    """A program that ignores SIGTERM, with two children that left its session: its id, its arguments as JSON."""
    with pipe_in(tmp_path) as pipe:
        program = server(pipe, stubborn=True, children=2)
        yield pipe, program.id, json.dumps(program.arguments)


async def test_no_process_outlives_the_gateway(stubborn: tuple[Pipe, str, str]) -> None:
    pipe, name, arguments = stubborn
    async with _python(_LAUNCHING, name, arguments, "2") as gateway:
        handles = [json.loads(await _line(gateway)) for _ in range(2)]
        await pipe.up(3)
        assert not pipe.nobody_lives()
        gateway.send_signal(signal.SIGKILL)
        await pipe.all_dead()
    guard = Process(handles[-1]["guard"], handles[-1]["guard_started"])
    await guard.ended(SystemClock())
    assert marked(name) == []


@pytest.mark.parametrize("steps", [1, 2])
async def test_a_gateway_killed_between_two_steps_of_a_start_leaves_nothing(
    steps: int, stubborn: tuple[Pipe, str, str]
) -> None:
    pipe, name, arguments = stubborn
    async with _python(_LAUNCHING, name, arguments, str(steps)) as gateway:
        for _ in range(steps):
            handle = json.loads(await _line(gateway))
        gateway.send_signal(signal.SIGKILL)
        await gateway.wait()
        await LocalLauncher(SystemClock()).stop(handle, grace_s=0.2)
    assert pipe.nobody_lives()
    assert marked(name) == []


async def test_a_guard_that_is_killed_takes_its_program_with_it(stubborn: tuple[Pipe, str, str]) -> None:
    """The kernel kills the program; its children are found by their mark when the program is stopped."""
    pipe, name, arguments = stubborn
    async with _python(_LAUNCHING, name, arguments, "2") as gateway:
        handle = [json.loads(await _line(gateway)) for _ in range(2)][-1]
        [_, _, [_, program, *_]] = await pipe.up(3)
        dying = Process.find(int(program))
        assert dying is not None
        Process(handle["guard"], handle["guard_started"]).send(signal.SIGKILL)
        await dying.ended(SystemClock())
        assert not pipe.nobody_lives()
        await LocalLauncher(SystemClock()).stop(handle, grace_s=0.2)
        assert pipe.nobody_lives()


async def test_the_next_life_cleans_up_and_serves(tmp_path: Path) -> None:
    async with _python(_SERVING, str(tmp_path), "2") as gateway:
        assert await _line(gateway) == "up"
        gateway.send_signal(signal.SIGKILL)
        await gateway.wait()
        async with running_fleet(tmp_path, SystemClock()) as fleet:
            left = await fleet._store.unfinished()
            assert [row.status for row in left] == ["ready", "ready"]
            await fleet.start([small_deployment(replicas=2)])
            await until(fleet, lambda: len(fleet.replicas_for("small@1")) == 2)
            assert [marked(row.id) for row in left] == [[], []]
            old = [await fleet._store.get(row.id) for row in left]
            assert [row and row.status for row in old] == ["stopped", "stopped"]


async def test_a_gateway_killed_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    async with _python(_SERVING, str(tmp_path), "0") as gateway:
        assert await _line(gateway) == "up"
        gateway.send_signal(signal.SIGKILL)
        await gateway.wait()
        async with running_fleet(tmp_path, SystemClock()) as fleet:
            left = await fleet._store.unfinished()
            await fleet.start([])
            await fleet.aclose()
            assert await fleet._store.unfinished() == []
            for guard in [process for row in left if not row.handle for process in marked(row.id)]:
                await guard.ended(SystemClock())  # it was never told to start anything
            assert [marked(row.id) for row in left] == [[]] * len(left)

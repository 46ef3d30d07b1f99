"""One at a time, over processes."""

import asyncio
import subprocess
import sys
from pathlib import Path

from terascope.catalog.sources.lock import locked
from terascope.testing.clock import ManualClock


async def test_a_second_holder_waits_for_the_first(tmp_path: Path) -> None:
    clock, order = ManualClock(), []

    async def second() -> None:
        async with locked(tmp_path / "locks" / "x", clock, lambda: order.append("waits")):
            order.append("second")

    async with locked(tmp_path / "locks" / "x", clock, lambda: order.append("never")):
        task = asyncio.create_task(second())
        await clock.slept(0.2)
        clock.advance(0.2)
        await clock.slept(0.2)
        order.append("first")
    clock.advance(0.2)
    await task
    assert order == ["waits", "first", "second"]


async def test_a_waiter_can_be_cancelled(tmp_path: Path) -> None:
    clock = ManualClock()

    async def second() -> None:
        async with locked(tmp_path / "x", clock, lambda: None):
            raise AssertionError("it was held")

    async with locked(tmp_path / "x", clock, lambda: None):
        task = asyncio.create_task(second())
        await clock.slept(0.2)
        task.cancel()
        assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)


async def test_a_killed_holder_frees_it(tmp_path: Path) -> None:
    clock = ManualClock()
    program = (
        "import fcntl, sys, os; file = open(sys.argv[1], 'a'); fcntl.flock(file, fcntl.LOCK_EX); "
        "print('held', flush=True); os.kill(os.getpid(), 9)"
    )
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program, str(tmp_path / "x")], capture_output=True, check=False
    )
    assert (done.stdout, done.returncode) == (b"held\n", -9)
    async with locked(tmp_path / "x", clock, lambda: None):
        assert clock.waits() == []

"""Processes that are never mistaken for others."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from uuid import uuid4

import pytest

from terascope.core.clock import SystemClock
from terascope.fleet.launchers.contract import Handle
from terascope.fleet.launchers.local import LocalLauncher
from terascope.fleet.launchers.processes import MARK, Process, boot_id, marked

CLOCK = SystemClock()
NAME = f"test-{uuid4().hex}"


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", "import os; os.write(1, b'up\\n'); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={MARK: NAME},
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        yield child
        child.kill()


def _found(child: subprocess.Popen[bytes]) -> Process:
    process = Process.find(child.pid)
    assert process is not None
    return process


def _recycled(process: Process) -> Process:
    """An earlier process that had the same id."""
    return Process(process.pid, process.started - 1)


async def test_a_recycled_id_is_never_signalled(child: subprocess.Popen[bytes]) -> None:
    process = _found(child)
    earlier = _recycled(process)
    assert not earlier.alive()
    assert earlier.tree() == []
    earlier.send(signal.SIGKILL)
    await earlier.ended(CLOCK)
    assert process.alive()


@pytest.mark.parametrize("name", ["guard", "program"])
async def test_a_handle_with_a_recycled_id_stops_nothing(name: str, child: subprocess.Popen[bytes]) -> None:
    process = _found(child)
    handle: Handle = {"id": "another", "boot": boot_id(), name: process.pid, f"{name}_started": process.started - 1}
    launcher = LocalLauncher(CLOCK)
    assert (await launcher.observe(handle)).sight == "gone"
    await launcher.stop(handle, grace_s=0.0)
    assert process.alive()


async def test_a_handle_of_another_boot_stops_nothing(child: subprocess.Popen[bytes]) -> None:
    process = _found(child)
    handle: Handle = {
        "id": NAME, "boot": "another", "program": process.pid, "program_started": process.started,
    }  # fmt: skip
    await LocalLauncher(CLOCK).stop(handle, grace_s=0.0)
    assert process.alive()


async def test_the_end_is_known_at_once(child: subprocess.Popen[bytes]) -> None:
    process = _found(child)
    waiting = asyncio.create_task(process.ended(CLOCK))
    await asyncio.sleep(0)
    process.send(signal.SIGKILL)
    await waiting
    assert not process.alive()


async def test_a_zombie_has_ended(child: subprocess.Popen[bytes]) -> None:
    process = _found(child)
    process.send(signal.SIGKILL)
    await asyncio.to_thread(os.waitid, os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert Process.find(child.pid) == process
    assert not process.alive()
    assert process.tree() == []
    await process.ended(CLOCK)
    process.send(signal.SIGKILL)


async def test_what_has_ended_long_ago(child: subprocess.Popen[bytes]) -> None:
    process = _found(child)
    child.kill()
    child.wait()
    assert Process.find(child.pid) is None
    assert not process.alive()
    await process.ended(CLOCK)
    process.send(signal.SIGKILL)


def test_marks_are_found_whole(child: subprocess.Popen[bytes]) -> None:
    assert marked(NAME) == [_found(child)]
    assert marked(NAME[:-1]) == []


def test_a_tree_has_its_root(child: subprocess.Popen[bytes]) -> None:
    assert _found(child) in _found_self().tree()
    assert _found(child).tree() == [_found(child)]


def _found_self() -> Process:
    process = Process.find(os.getpid())
    assert process is not None
    return process

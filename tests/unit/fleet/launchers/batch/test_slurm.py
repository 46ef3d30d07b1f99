"""The conformance suite of launchers on a real Slurm, and how its jobs end by themselves."""

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from terascope.core.clock import SystemClock
from terascope.core.config import SiteConfig
from terascope.fleet.launchers.batch.launcher import BatchLauncher
from terascope.fleet.launchers.batch.slurm import SlurmScheduler, seen_in
from terascope.fleet.launchers.contract import Handle, Sight
from terascope.fleet.launchers.guard import descendants
from terascope.testing.launchers import LAUNCHER_CHECKS, Check, start
from terascope.testing.programs import job, pipe_in, server
from terascope.testing.serve import command_line
from terascope.testing.slurm import SlurmCluster


def site(directory: Path, **fields: object) -> SiteConfig:
    logs = str(directory / "logs")
    common = {"scheduler": "slurm", "logs": logs, "gpus": False, "address": "127.0.0.1", "poll_s": 0.1}
    return SiteConfig(**{**common, **fields})  # type: ignore[arg-type]


def launcher(directory: Path, **fields: object) -> BatchLauncher:
    return BatchLauncher("testing", site(directory, **fields), SystemClock())


@pytest.mark.slow
@pytest.mark.parametrize("check", LAUNCHER_CHECKS, ids=lambda one: one.__name__.removeprefix("check_"))
async def test_conformance(check: Check, slurm: SlurmCluster, tmp_path: Path) -> None:
    await check(lambda: launcher(tmp_path), tmp_path)


@pytest.mark.slow
async def test_a_job_that_waits_says_why(slurm: SlurmCluster, tmp_path: Path) -> None:
    """It is held by its script; it is stopped before it has begun."""
    one = launcher(tmp_path, directives=["#SBATCH --hold"])
    handle = await start(one, job(0))
    seen = await one.observe(handle)
    assert (seen.sight, seen.reason) == (Sight.KNOWN, "waits in the queue: JobHeldUser")
    await one.stop(handle, grace_s=1.0)
    seen = await one.observe(handle)
    assert (seen.sight, seen.reason) == (Sight.GONE, "was cancelled")


@pytest.mark.slow
async def test_a_job_that_is_not_taken(slurm: SlurmCluster, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="invalid partition specified: nowhere"):
        await start(launcher(tmp_path, partition="nowhere"), job(0))


@pytest.mark.slow
async def test_a_job_that_was_killed_on_its_node(slurm: SlurmCluster, tmp_path: Path) -> None:
    """Nothing is left to write down how it ended; Slurm still says that it did."""
    one = launcher(tmp_path)
    with pipe_in(tmp_path) as pipe:
        handle = await start(one, server(pipe))
        await pipe.up()
        [node] = [one for one in marked("node.py", str(handle["directory"])) if "guard.py" not in command_line(one)]
        os.kill(node, signal.SIGKILL)
        async with asyncio.timeout(30):
            seen = await one.ended(handle)
        assert (seen.sight, seen.exit_code, seen.reason) == (Sight.GONE, None, "failed")
        await pipe.all_dead()
        await one.stop(handle, grace_s=1.0)


@pytest.mark.slow
async def test_a_rank_that_dies_ends_them_all(slurm: SlurmCluster, tmp_path: Path) -> None:
    """Two nodes of a job, each with a program behind its guard; the second is killed, and says so for both."""
    one = launcher(tmp_path, head_address="127.0.0.1")
    with pipe_in(tmp_path) as pipe:
        first = server(pipe)
        handle = await start(one, replace(first, others=(first.arguments,)))
        for _ in range(2):
            await pipe.up()
        node = str(Path(str(handle["directory"])) / "output-1.log")
        [guard] = [pid for pid in marked("guard.py", node) if "node.py" not in command_line(pid)]
        [program, *_] = descendants(guard)
        os.kill(program, signal.SIGKILL)
        async with asyncio.timeout(60):
            seen = await one.ended(handle)
        assert (seen.sight, seen.exit_code) == (Sight.GONE, -9)
        assert seen.reason == f"rank 1 of 2, on node {os.uname().nodename}, was killed by SIGKILL"
        await pipe.all_dead()
        await one.stop(handle, grace_s=1.0)


def marked(*words: str) -> list[int]:
    """The ids of the processes that have all of `words` in their command lines."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if all(word in command_line(pid) for word in words)]


@pytest.mark.slow
async def test_a_controller_that_comes_back(slurm: SlurmCluster, tmp_path: Path) -> None:
    """The job runs on; while nobody can be asked it is unknown."""
    one = launcher(tmp_path)
    with pipe_in(tmp_path) as pipe:
        handle = await start(one, server(pipe))
        await pipe.up()
        slurm.restart_controller()
        seen = await one.observe(handle)
        while seen.sight is Sight.UNKNOWN:  # it answers before it has read its jobs again
            await asyncio.sleep(0.1)
            seen = await one.observe(handle)
        assert seen.sight is Sight.KNOWN
        await one.stop(handle, grace_s=5.0)
        assert pipe.nobody_lives()


@pytest.mark.slow
async def test_a_start_that_broke_off_is_found_by_its_name(slurm: SlurmCluster, tmp_path: Path) -> None:
    """The job was taken, and its id was lost."""
    one = launcher(tmp_path)
    with pipe_in(tmp_path) as pipe:
        handle = await start(one, server(pipe))
        await pipe.up()
        without: Handle = {name: value for name, value in handle.items() if name != "job"}
        assert (await launcher(tmp_path).observe(without)).sight is Sight.KNOWN
        await launcher(tmp_path).stop(without, grace_s=5.0)
        assert pipe.nobody_lives()


async def test_a_slurm_that_does_not_answer(tmp_path: Path) -> None:
    """There is no configuration on this machine but the tests' own."""
    handle: Handle = {"name": "terascope-x", "directory": str(tmp_path), "job": "7"}
    seen = await launcher(tmp_path, command_timeout_s=20).observe(handle)
    assert seen.sight is Sight.UNKNOWN
    assert "squeue" in seen.reason


@pytest.mark.slow
def test_a_job_of_long_ago(slurm: SlurmCluster, tmp_path: Path) -> None:
    """There are no books here, and nobody knows it: that it is gone is not said."""
    scheduler = SlurmScheduler(site(tmp_path))
    assert scheduler.past("4711").sight is Sight.UNKNOWN
    scheduler.cancel("4711")


@pytest.mark.parametrize(
    ("state", "exit_code", "sight", "code", "words"),
    [
        ("RUNNING", "0:0", Sight.KNOWN, None, "running"),
        ("COMPLETING", "", Sight.KNOWN, None, "completing"),
        ("COMPLETED", "0:0", Sight.GONE, 0, "ended"),
        ("FAILED", "3:0", Sight.GONE, 3, "exit code 3"),
        ("FAILED", "0:9", Sight.GONE, -9, "SIGKILL"),
        ("FAILED", "", Sight.GONE, None, "failed"),
        ("CANCELLED", "0:15", Sight.GONE, None, "was cancelled"),
        ("TIMEOUT", "0:0", Sight.GONE, None, "walltime"),
        ("OUT_OF_MEMORY", "0:125", Sight.GONE, None, "memory"),
        ("NODE_FAIL", "", Sight.GONE, None, "node failed"),
        ("PREEMPTED", "", Sight.GONE, None, "preempted"),
        ("SOMETHING_NEW", "", Sight.UNKNOWN, None, "SOMETHING_NEW"),
    ],
)
def test_states(state: str, exit_code: str, sight: Sight, code: int | None, words: str) -> None:
    seen = seen_in(state, exit_code=exit_code)
    assert (seen.sight, seen.exit_code) == (sight, code)
    assert words in seen.reason

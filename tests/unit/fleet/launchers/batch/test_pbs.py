"""The conformance suite of launchers on executables that behave as those of PBS Professional."""

import asyncio
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from terascope.core.clock import SystemClock
from terascope.core.config import SiteConfig
from terascope.fleet.launchers.batch.launcher import BatchLauncher
from terascope.fleet.launchers.batch.pbs import PbsScheduler, seen_in
from terascope.fleet.launchers.contract import Sight
from terascope.testing.launchers import LAUNCHER_CHECKS, Check, start
from terascope.testing.pbs import PbsCluster
from terascope.testing.programs import job, missing, pipe_in, server


@pytest.fixture
def pbs(set_environment: Callable[[str, str], None]) -> Iterator[PbsCluster]:
    with PbsCluster() as cluster:
        set_environment("PATH", cluster.path)
        yield cluster


def site(directory: Path, **fields: str) -> SiteConfig:
    logs = str(directory / "logs")
    return SiteConfig(scheduler="pbs", logs=logs, gpus=False, address="127.0.0.1", poll_s=0.1, **fields)  # type: ignore[arg-type]


def launcher(directory: Path, **fields: str) -> BatchLauncher:
    return BatchLauncher("testing", site(directory, **fields), SystemClock())


@pytest.mark.slow
@pytest.mark.parametrize("check", LAUNCHER_CHECKS, ids=lambda one: one.__name__.removeprefix("check_"))
async def test_conformance(check: Check, pbs: PbsCluster, tmp_path: Path) -> None:
    await check(lambda: launcher(tmp_path), tmp_path)


async def test_a_rank_that_dies_ends_them_all(pbs: PbsCluster, tmp_path: Path) -> None:
    """The second of two nodes has no such program, and ends at once; the first, which runs, is ended with it."""
    one = launcher(tmp_path)
    with pipe_in(tmp_path) as pipe:
        handle = await start(one, replace(server(pipe), others=(missing().arguments,)))
        async with asyncio.timeout(60):
            seen = await one.ended(handle)
        assert (seen.sight, seen.exit_code) == (Sight.GONE, 127)
        assert seen.reason.startswith(f"rank 1 of 2, on node {os.uname().nodename}, ended with exit code 127")
        await one.stop(handle, grace_s=1.0)
        assert pipe.nobody_lives()


async def test_both_nodes_are_stopped(pbs: PbsCluster, tmp_path: Path) -> None:
    one = launcher(tmp_path)
    with pipe_in(tmp_path) as pipe:
        handle = await start(one, replace(server(pipe), others=(server(pipe).arguments,)))
        for _ in range(2):
            await pipe.up()
        await one.stop(handle, grace_s=5.0)
        assert pipe.nobody_lives()
        assert (await one.observe(handle)).sight is Sight.GONE


async def test_a_silent_server_says_nothing_of_a_job(pbs: PbsCluster, tmp_path: Path) -> None:
    one = launcher(tmp_path)
    with pipe_in(tmp_path) as pipe:
        handle = await start(one, server(pipe))
        await pipe.up()
        pbs.break_down("pbs_iff: cannot connect to server")
        seen = await launcher(tmp_path).observe(handle)
        assert seen.sight is Sight.UNKNOWN
        assert "cannot connect" in seen.reason
        with pytest.raises(OSError, match="cannot connect"):
            await one.stop(handle, grace_s=1.0)
        pbs.mend()
        await one.stop(handle, grace_s=1.0)
        assert pipe.nobody_lives()


async def test_a_refused_job_leaves_its_script_and_no_secret(pbs: PbsCluster, tmp_path: Path) -> None:
    one = launcher(tmp_path, partition="closed")
    program = job(0)
    with pytest.raises(OSError, match="Unknown queue"):
        await start(one, program)
    left = {path.name.partition(".")[0] for path in (tmp_path / "logs" / "launches" / program.id).iterdir()}
    assert f"terascope-{program.id}" in left
    assert "environment" not in left


async def test_a_job_that_pbs_has_forgotten(pbs: PbsCluster, tmp_path: Path) -> None:
    """The node's own word is enough; without it nobody knows."""
    one, program = launcher(tmp_path), job(3)
    handle = await start(one, program)
    assert (await one.ended(handle)).exit_code == 3
    await one.stop(handle, grace_s=1.0)
    pbs.forget()
    assert (await one.observe(handle)).exit_code == 3
    (tmp_path / "logs" / "launches" / program.id / "ended").unlink()
    assert (await one.observe(handle)).sight is Sight.UNKNOWN


@pytest.mark.parametrize(
    ("said", "sight", "code", "words"),
    [
        ({"job_state": "Q", "comment": "Not Running: Insufficient ncpus"}, Sight.KNOWN, None, "Insufficient"),
        ({"job_state": "R"}, Sight.KNOWN, None, "running"),
        ({"job_state": "E"}, Sight.KNOWN, None, "running"),
        ({"job_state": "F", "Exit_status": 0}, Sight.GONE, 0, "ended"),
        ({"job_state": "F", "Exit_status": 271}, Sight.GONE, -15, "SIGTERM"),
        ({"job_state": "F", "Exit_status": -29}, Sight.GONE, None, "-29"),
        ({"job_state": "F"}, Sight.GONE, None, "before it ran"),
        ({"job_state": "?"}, Sight.UNKNOWN, None, "?"),
        ({}, Sight.UNKNOWN, None, ""),
    ],
)
def test_states(said: dict[str, object], sight: Sight, code: int | None, words: str) -> None:
    seen = seen_in(said)
    assert (seen.sight, seen.exit_code) == (sight, code)
    assert words in seen.reason


def test_what_qstat_may_answer(pbs: PbsCluster, tmp_path: Path) -> None:
    scheduler = PbsScheduler(site(tmp_path))
    assert scheduler.jobs() == {}
    (pbs.bin / "qstat").write_text("#!/bin/sh\necho not JSON\n")
    with pytest.raises(OSError, match="cannot be read"):
        scheduler.jobs()

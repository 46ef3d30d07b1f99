"""Batch systems that answer slowly, wrongly or not at all: nothing of it is believed, and nothing is left."""

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.core.clock import SystemClock
from terascope.core.config import SiteConfig
from terascope.fleet.launchers.batch import pbs
from terascope.fleet.launchers.batch.launcher import BatchLauncher, scheduler_of
from terascope.fleet.launchers.batch.slurm import seen_in
from terascope.fleet.launchers.contract import Handle, Sight
from terascope.fleet.launchers.processes import marked
from terascope.testing.launchers import start
from terascope.testing.programs import job

Commands = Callable[..., None]
_HANDLE: Handle = {"name": "terascope-x", "directory": "/nowhere", "job": "7"}
_MARK = "wrong-answers"


@pytest.fixture
def commands(tmp_path: Path, set_environment: Callable[[str, str], None]) -> Commands:
    """Makes the commands of a batch system, each with the lines of shell that it is given."""
    place = tmp_path / "bin"
    place.mkdir()
    set_environment("PATH", f"{place}{os.pathsep}{os.defpath}")
    set_environment("TERASCOPE_PROGRAM", _MARK)

    def make(**lines: str) -> None:
        for name, text in lines.items():
            (place / name).write_text(f"#!/bin/sh\n{text}\n")
            (place / name).chmod(0o755)

    return make


def site(directory: Path, scheduler: Literal["slurm", "pbs"], timeout_s: float = 20.0) -> SiteConfig:
    return SiteConfig(
        scheduler=scheduler,
        logs=str(directory / "logs"),
        gpus=False,
        poll_s=0.1,
        command_timeout_s=timeout_s,
    )


def launcher(directory: Path, scheduler: Literal["slurm", "pbs"] = "slurm", timeout_s: float = 20.0) -> BatchLauncher:
    return BatchLauncher("testing", site(directory, scheduler, timeout_s), SystemClock())


async def nobody_left() -> None:
    async with asyncio.timeout(10):
        for process in marked(_MARK):
            await process.ended(SystemClock())


@pytest.mark.parametrize(("scheduler", "name"), [("slurm", "squeue"), ("pbs", "qstat")])
async def test_a_slow_listing_says_nothing_and_leaves_nothing(
    scheduler: Literal["slurm", "pbs"], name: str, commands: Commands, tmp_path: Path
) -> None:
    """The command is a site's script: what it started is ended, too."""
    commands(**{name: "sleep 600; echo never"})
    seen = await launcher(tmp_path, scheduler, 0.2).observe(_HANDLE)
    assert (seen.sight, seen.reason) == (Sight.UNKNOWN, f"{name} did not answer within 0.2 s")
    await nobody_left()


@pytest.mark.parametrize(("scheduler", "name"), [("slurm", "sbatch"), ("pbs", "qsub")])
async def test_a_slow_submission_fails_and_leaves_no_secret(
    scheduler: Literal["slurm", "pbs"], name: str, commands: Commands, tmp_path: Path
) -> None:
    commands(**{name: "sleep 600"})
    program = job(0)
    with pytest.raises(OSError, match=f"{name} did not answer within"):
        await start(launcher(tmp_path, scheduler, 0.2), program)
    left = {path.name for path in (tmp_path / "logs" / "launches" / program.id).iterdir()}
    assert "environment" not in left
    await nobody_left()


@pytest.mark.parametrize(
    ("scheduler", "name", "says"),
    [
        ("slurm", "sbatch", ""),
        ("slurm", "sbatch", "Welcome to the cluster!"),
        ("pbs", "qsub", ""),
        ("pbs", "qsub", "Welcome to the cluster!"),
    ],
)
async def test_a_submission_without_an_id_fails(
    scheduler: Literal["slurm", "pbs"], name: str, says: str, commands: Commands, tmp_path: Path
) -> None:
    commands(**{name: f"echo '{says}'"})
    with pytest.raises(OSError, match=f"{says or 'no job'}|does not say why"):
        await start(launcher(tmp_path, scheduler), job(0))


async def test_a_job_that_ends_between_two_looks_tells_its_exit_code(commands: Commands, tmp_path: Path) -> None:
    """Its file was not there yet when it was looked for; the listing, read after it, has the job ended."""
    commands(squeue=f"echo 3 > {tmp_path}/ended; echo '7|FAILED|NonZeroExitCode|mine'")
    seen = await launcher(tmp_path).observe({**_HANDLE, "directory": str(tmp_path)})
    assert (seen.sight, seen.exit_code) == (Sight.GONE, 3)


async def test_a_job_that_was_taken_although_its_submission_failed_is_cancelled(
    commands: Commands, tmp_path: Path
) -> None:
    """The id never came; the queue lists the job by its name."""
    program = job(0)
    listed = f"if [ -e {tmp_path}/cancelled ]; then exit 0; fi; echo '4711|RUNNING|None|terascope-{program.id}.1'"
    commands(sbatch="exit 0", squeue=listed, scancel=f'echo "$1" > {tmp_path}/cancelled')
    one = launcher(tmp_path)
    starting = aiter(one.start(program))
    handle = await anext(starting)
    with pytest.raises(OSError, match="does not say why"):
        await anext(starting)
    await one.stop(handle, grace_s=0.1)
    assert (tmp_path / "cancelled").read_text() == "4711\n"


async def test_a_job_that_nobody_waits_for_any_more_ends_by_itself(commands: Commands, tmp_path: Path) -> None:
    """It was taken after all, and begins when its launch is over: without its secret it runs nothing."""
    commands(qsub=f'for last; do :; done; cp "$last" {tmp_path}/script; exit 1')
    with pytest.raises(OSError, match="was not taken"):
        await start(launcher(tmp_path, "pbs"), job(0))
    late = await asyncio.create_subprocess_exec("bash", str(tmp_path / "script"), stderr=asyncio.subprocess.DEVNULL)
    assert await late.wait() == 1


@pytest.mark.parametrize("says", ["", "squeue: what?", "7", "||||||", "8|RUNNING|None|other", "7|NEW_STATE|None|mine"])
async def test_a_listing_that_says_nothing_of_a_job(says: str, commands: Commands, tmp_path: Path) -> None:
    """It is listed in no state that is known, or not at all; and the books are wrong as well."""
    commands(squeue=f"echo '{says}'", sacct="echo '???|!!!'")
    seen = await launcher(tmp_path).observe(_HANDLE)
    assert seen.sight is Sight.UNKNOWN
    assert seen.reason


async def test_a_scheduler_that_is_not_there(commands: Commands, tmp_path: Path) -> None:
    for one, name in ((launcher(tmp_path, "slurm"), "squeue"), (launcher(tmp_path, "pbs"), "qstat")):
        seen = await one.observe(_HANDLE)
        assert seen.sight is Sight.UNKNOWN
        assert name in seen.reason


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(_JSON | _JSON.map(lambda inner: {"Jobs": inner}) | _JSON.map(lambda inner: {"Jobs": {"7": inner}}))
def test_any_json_of_qstat_is_read_or_refused(said: object) -> None:
    jobs = said.get("Jobs", {}) if isinstance(said, dict) else None
    if isinstance(jobs, dict) and all(isinstance(one, dict) for one in jobs.values()):
        assert all(pbs.seen_in(one).sight in Sight for one in pbs._jobs(json.dumps(said)).values())
    else:
        with pytest.raises(OSError, match="cannot be read"):
            pbs._jobs(json.dumps(said))


@given(st.text(max_size=20), st.text(max_size=20))
def test_any_state_of_slurm_is_read(state: str, exit_code: str) -> None:
    seen = seen_in(state, exit_code=exit_code)
    assert seen.sight in Sight
    assert seen.reason


def test_the_cluster_of_a_site_is_found_by_its_scheduler(tmp_path: Path) -> None:
    assert isinstance(scheduler_of(site(tmp_path, "pbs")), pbs.PbsScheduler)

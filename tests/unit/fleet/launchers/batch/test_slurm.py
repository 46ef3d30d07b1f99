"""The conformance suite of launchers on a real Slurm."""

from pathlib import Path

import pytest

from terascope.core.clock import SystemClock
from terascope.core.config import SiteConfig
from terascope.fleet.launchers.batch.launcher import BatchLauncher
from terascope.testing.launchers import LAUNCHER_CHECKS, Check
from terascope.testing.slurm import SlurmCluster

pytestmark = pytest.mark.slow


def launcher(directory: Path) -> BatchLauncher:
    site = SiteConfig(scheduler="slurm", logs=str(directory / "logs"), gpus=False, address="127.0.0.1", poll_s=0.1)
    return BatchLauncher("testing", site, SystemClock())


@pytest.mark.parametrize("check", LAUNCHER_CHECKS, ids=lambda one: one.__name__.removeprefix("check_"))
async def test_conformance(check: Check, slurm: SlurmCluster, tmp_path: Path) -> None:
    await check(lambda: launcher(tmp_path), tmp_path)

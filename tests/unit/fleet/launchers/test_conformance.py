"""The launchers against the suite that a site can run on its own."""

from collections.abc import Callable
from pathlib import Path

import pytest

from terascope.core.clock import SystemClock
from terascope.fleet.launchers.contract import Launcher
from terascope.fleet.launchers.local import LocalLauncher
from terascope.testing.launchers import LAUNCHER_CHECKS, Check


def _local() -> Launcher:
    return LocalLauncher(SystemClock(), orphan_grace_s=0.1)


@pytest.mark.parametrize("make", [_local])
@pytest.mark.parametrize("check", LAUNCHER_CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
async def test_launcher(check: Check, make: Callable[[], Launcher], tmp_path: Path) -> None:
    await check(make, tmp_path)

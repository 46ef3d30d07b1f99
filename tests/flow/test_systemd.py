"""The shipped systemd unit, read by systemd itself."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "docs" / "how-to" / "files" / "terascope.service"


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "terascope.service"
    # the program is not installed at its place here, and systemd checks that it is
    unit.write_text(UNIT.read_text().replace("/opt/terascope/bin/terascope", "/bin/true"))
    environment = os.environ | {"SYSTEMD_LOG_LEVEL": "warning"}
    done = subprocess.run(
        [verify, "verify", str(unit)], capture_output=True, text=True, check=False, timeout=60, env=environment
    )
    mine = [line for line in done.stderr.splitlines() if "terascope" in line]
    assert done.returncode == 0, done.stderr
    assert mine == []


def test_the_unit_runs_the_command_as_documented() -> None:
    text = UNIT.read_text()
    assert "ExecStart=/opt/terascope/bin/terascope serve --config /etc/terascope/terascope.yaml" in text
    assert "KillMode=mixed" in text

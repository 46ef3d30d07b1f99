"""The official `openai` npm package, run by node, against the whole gateway; what it does is in `openai_npm.mjs`."""

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from platformdirs import user_cache_path

from terascope.core.config import Config, DeploymentConfig
from terascope.testing.faults import faulty
from terascope.testing.gateway import serving

PACKAGE = "openai@7.57.0"
SCRIPT = Path(__file__).with_name("openai_npm.mjs")


@pytest.fixture(scope="session")
def packages() -> Path:
    """Where the package is installed; fetched once for all runs on this machine. Skips where it cannot be had."""
    npm = shutil.which("npm")
    if npm is None:
        missing("npm is not installed; `make tools` as root installs it")
    directory = user_cache_path("terascope-tests") / PACKAGE.replace("@", "-")
    if not (directory / "node_modules").is_dir():
        fresh = directory.with_name(f"{directory.name}.{os.getpid()}")
        fresh.mkdir(parents=True)
        command = [npm, "install", "--prefix", str(fresh), "--ignore-scripts", "--no-audit", "--no-fund", PACKAGE]
        done = subprocess.run(command, cwd=fresh, capture_output=True, text=True, check=False, timeout=300)
        if done.returncode != 0:
            shutil.rmtree(fresh)
            missing(f"npm could not install {PACKAGE}: {done.stderr[-2000:]}")
        shutil.rmtree(directory, ignore_errors=True)
        fresh.rename(directory)
    return directory


def missing(reason: str) -> NoReturn:
    """In CI everything must be there; elsewhere the test is skipped."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_the_npm_package(tmp_path: Path, packages: Path, need_program: Callable[[str], str]) -> None:
    echo = DeploymentConfig(model="echo", engine="echo", launcher="inprocess")
    async with faulty() as engine:
        far = DeploymentConfig(model="far", engine="remote", url=engine.url)
        async with serving(Config(deployments=[echo, far]), data_dir=tmp_path) as served:
            told = {"OPENAI_BASE_URL": f"{served.url}/v1", "OPENAI_API_KEY": served.key, "PACKAGES": str(packages)}
            node = await asyncio.create_subprocess_exec(
                need_program("node"), "--test", "--test-reporter=tap", str(SCRIPT), env=os.environ | told,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            output = (await node.communicate())[0].decode()
    assert node.returncode == 0, output
    counts = {name: int(count) for name, count in re.findall(r"^# (pass|fail|skipped) (\d+)$", output, re.MULTILINE)}
    assert counts["pass"] >= len(re.findall(r"^test\(", SCRIPT.read_text(), re.MULTILINE)) > 10, output
    assert (counts["fail"], counts["skipped"]) == (0, 0), output

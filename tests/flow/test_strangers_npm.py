"""The official `openai` npm package, run by node, against the whole gateway; what it does is in `openai_npm.mjs`."""

import asyncio
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from terascope.core.config import Config, DeploymentConfig
from terascope.testing.faults import faulty
from terascope.testing.gateway import serving

PACKAGE = "openai@7.57.0"
SCRIPT = Path(__file__).with_name("openai_npm.mjs")


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_the_npm_package(
    tmp_path: Path, npm_package: Callable[[str], Path], need_program: Callable[[str], str]
) -> None:
    packages = npm_package(PACKAGE)
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

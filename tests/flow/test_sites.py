"""A gateway whose replicas are jobs of a real Slurm."""

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from terascope.core.config import Config, DeploymentConfig, SiteConfig
from terascope.core.states import ReplicaStatus
from terascope.testing.gateway import Served, serving
from terascope.testing.slurm import SlurmCluster

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("slurm")]


def config(directory: Path) -> Config:
    logs = str(directory / "shared")
    site = SiteConfig(scheduler="slurm", logs=logs, gpus=False, address="127.0.0.1", poll_s=0.2)
    return Config(sites={"testing": site}, deployments=[DeploymentConfig(model="echo", engine="echo", site="testing")])


async def chat(served: Served) -> httpx.Response:
    body = {"model": "echo", "messages": [{"role": "user", "content": "hello there"}]}
    async with httpx.AsyncClient(headers=served.headers, timeout=60) as client:
        return await client.post(f"{served.url}/v1/chat/completions", json=body)


async def test_a_replica_is_a_job(slurm: SlurmCluster, tmp_path: Path) -> None:
    async with serving(config(tmp_path), data_dir=tmp_path / "data") as served:
        answer = await chat(served)
        assert answer.json()["choices"][0]["message"]["content"] == "hello there"
        [replica] = served.services.fleet.ready()
        row = replica.row
        assert (row.launcher, row.url.startswith("at:/")) == ("site:testing", True)
        [launch] = (tmp_path / "shared" / "launches").iterdir()
        assert launch.stat().st_mode & 0o777 == 0o700
        assert (launch / "environment").stat().st_mode & 0o777 == 0o600
        told = [path.read_text() for path in launch.iterdir() if path.name != "environment"]
        assert not [text for text in told if replica.endpoint.secret in text]
    left = {path.name for path in launch.iterdir()}
    assert "environment" not in left
    assert [name for name in left if name.startswith(f"terascope-{row.id}.")]
    # it ends as it is told to; a second SIGTERM, for Slurm sends its own to each process, may find it while it does
    assert (launch / "ended").read_text() in ("0\n", "-15\n")


async def test_a_job_that_dies_is_followed_by_another(slurm: SlurmCluster, tmp_path: Path) -> None:
    async with serving(config(tmp_path), data_dir=tmp_path / "data") as served:
        [first] = served.services.fleet.ready()
        ended = asyncio.Event()
        end = served.services.fleet.listen(
            lambda row, _: ended.set() if row.id == first.id and row.status is ReplicaStatus.FAILED else None
        )
        _kill(first.listen)
        await ended.wait()
        end()
        assert (await chat(served)).status_code == 200
        [second] = served.services.fleet.ready()
        assert second.row.restarts == 1
        assert "SIGKILL" in first.row.message


def _kill(listen: str) -> None:
    """Kill the engine that listens there, not what guards it."""
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        if listen.encode() in words and b"node.py" not in words and b"guard.py" not in words:
            os.kill(int(entry.name), signal.SIGKILL)


async def test_an_unknown_site_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    wrong = replace(config(tmp_path), sites={})
    with pytest.raises(Exception, match="there is no site 'testing'"):
        async with serving(wrong, data_dir=tmp_path / "data"):
            pass

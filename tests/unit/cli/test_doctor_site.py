"""`terascope doctor --site`: a real Slurm, a PBS of executables, and clusters that are not there."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from terascope.cli.checks.finding import Finding, Level
from terascope.cli.checks.site import check_site
from terascope.core.config import Config, DeploymentConfig, EngineConfig, SiteConfig
from terascope.testing.pbs import PbsCluster
from terascope.testing.slurm import SlurmCluster

from .conftest import Cli


def _found(site: SiteConfig, *deployments: DeploymentConfig) -> dict[str, Finding]:
    config = Config(sites={"a": site}, deployments=list(deployments))
    return {one.about: one for one in check_site(config, "a")}


def _site(directory: Path, **fields: object) -> SiteConfig:
    (directory / "weights").mkdir(exist_ok=True)
    places = {"logs": str(directory / "logs"), "weights": str(directory / "weights"), "gpus": False}
    return SiteConfig(**{**places, **fields})  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_slurm_that_takes_jobs(slurm: SlurmCluster, tmp_path: Path) -> None:
    found = _found(_site(tmp_path), DeploymentConfig(model="m", engine="echo", site="a"))
    assert found["commands"].level is Level.OK
    assert "to start at" in found["a job"].says
    assert found["engine echo"].says == sys.executable
    assert not [one for one in found.values() if one.level is Level.ERROR]
    assert not (tmp_path / "logs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"partition": "nowhere"}, "invalid partition"),
        ({"constraint": "quantum"}, "feature"),
        ({"directives": ["#SBATCH --no-such-option"]}, "no-such-option"),
        ({"cores": 100_000}, "node configuration is not available"),
    ],
)
def test_a_slurm_that_would_not(slurm: SlurmCluster, tmp_path: Path, fields: dict[str, object], words: str) -> None:
    found = _found(_site(tmp_path, **fields))
    assert found["a job"].level is Level.ERROR
    assert words in found["a job"].says.lower()
    assert "sites.a" in found["a job"].advice


def test_a_pbs(set_environment: Callable[[str, str], None], tmp_path: Path) -> None:
    with PbsCluster() as pbs:
        set_environment("PATH", pbs.path)
        site = _site(tmp_path, scheduler="pbs", partition="prod")
        assert _found(site)["a job"].says == "queue prod"
        assert "Unknown queue" in _found(replace(site, partition="closed"))["a job"].says
        pbs.break_down("cannot connect to server")
        assert "cannot connect" in _found(site)["a job"].says


def test_no_cluster_at_all(set_environment: Callable[[str, str], None], tmp_path: Path) -> None:
    set_environment("PATH", str(tmp_path))
    found = _found(_site(tmp_path))
    assert "sbatch, squeue, scancel not found" in found["commands"].says
    assert "a job" not in found


def test_directories(set_environment: Callable[[str, str], None], tmp_path: Path) -> None:
    set_environment("PATH", str(tmp_path))
    set_environment("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    found = _found(_site(tmp_path, logs=str(tmp_path / "home" / "logs"), caches="relative", weights="/nowhere/models"))
    assert (found["logs"].level, "home" in found["logs"].says) == (Level.WARNING, True)
    assert (found["caches"].level, found["weights"].level) == (Level.ERROR, Level.ERROR)
    assert "looks like a directory of this machine" in _found(_site(tmp_path, logs="/tmp/x"))["logs"].says
    assert _found(SiteConfig())["logs"].says == "says no directory"


@pytest.mark.parametrize(("python", "words"), [("/nowhere/python", "cannot be run"), (sys.executable, "has no vllm")])
def test_an_engine_that_is_not_there(python: str, words: str, tmp_path: Path) -> None:
    found = _found(_site(tmp_path, engines={"vllm": EngineConfig(python=python)}))
    assert (found["engine vllm"].level, words in found["engine vllm"].says) == (Level.ERROR, True)


def test_the_command(bare: Cli, tmp_path: Path, set_environment: Callable[[str, str], None]) -> None:
    set_environment("PATH", str(tmp_path))
    path = tmp_path / "terascope.yaml"
    path.write_text(f"sites:\n  a:\n    logs: {tmp_path}/logs\ndeployments: []\n")
    said = bare("doctor", "--site", "a", "--config", str(path))
    assert said.status == 1
    assert "site a" in said.out
    unknown = bare("doctor", "--site", "b", "--config", str(path))
    assert "there is no site 'b'; there is a" in unknown.out

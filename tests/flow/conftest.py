"""Whole gateways, for tests that look at them from outside, and programs of others that they are used with."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import httpx
import pytest
from platformdirs import user_cache_path

from terascope.cli import settings
from terascope.core.config import DEFAULT_MODELS, Config, DeploymentConfig
from terascope.testing.gateway import ECHO, Served, running_gateway

SMOL = "smollm2-135m-instruct"


@pytest.fixture(scope="session")
def echo() -> Iterator[Served]:
    """A gateway with the echo engine, shared by all tests that leave it as it was."""
    with running_gateway() as served:
        yield served


@pytest.fixture
def http(echo: Served) -> Iterator[httpx.Client]:
    """An HTTP client with an operator's key."""
    with httpx.Client(base_url=echo.url, headers=echo.headers, timeout=30) as client:
        yield client


@pytest.fixture(scope="session")
def gateway() -> Iterator[Served]:
    """A gateway with SmolLM2 in the torch engine, and echo, shared by all tests that leave it as it was."""
    config = Config(models={SMOL: DEFAULT_MODELS[SMOL]}, deployments=[DeploymentConfig(model=SMOL), *ECHO.deployments])
    with running_gateway(config, cache_dir=settings.cache_dir()) as served:
        yield served


@pytest.fixture(scope="session")
def npm_package() -> Callable[[str], Path]:
    """Finds where `name@version` is installed; fetched once for all runs on this machine. Skips without it."""
    return _installed


def _installed(package: str) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        missing("npm is not installed; `make tools` as root installs it")
    directory = user_cache_path("terascope-tests") / package.replace("@", "-")
    if not (directory / "node_modules").is_dir():
        fresh = directory.with_name(f"{directory.name}.{os.getpid()}")
        fresh.mkdir(parents=True)
        command = [npm, "install", "--prefix", str(fresh), "--ignore-scripts", "--no-audit", "--no-fund", package]
        done = subprocess.run(command, cwd=fresh, capture_output=True, text=True, check=False, timeout=300)
        if done.returncode != 0:
            shutil.rmtree(fresh)
            missing(f"npm could not install {package}: {done.stderr[-2000:]}")
        shutil.rmtree(directory, ignore_errors=True)
        fresh.rename(directory)
    return directory


def missing(reason: str) -> NoReturn:
    """In CI everything must be there; elsewhere the test is skipped."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)

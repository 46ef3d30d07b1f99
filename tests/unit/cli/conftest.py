"""The program, run inside the test, and a gateway for it to ask."""

import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from terascope.cli.app import run
from terascope.core.config import Config, DeploymentConfig
from terascope.testing.gateway import Served, running_gateway

_SLOW = DeploymentConfig(model="slow", engine="echo", launcher="inprocess", options={"delay_ms": "50"})
_FAST = DeploymentConfig(model="echo", engine="echo", launcher="inprocess")


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.status == 0, self.err
        return json.loads(self.out)


Cli = Callable[..., Result]
SetEnvironment = Callable[[str, str], None]


@pytest.fixture(scope="module")
def gateway() -> Iterator[Served]:
    """A gateway that serves `echo`, and `slow` that takes 50 ms for each token."""
    with running_gateway(Config(deployments=[_FAST, _SLOW])) as served:
        yield served


@pytest.fixture
def bare(set_environment: SetEnvironment, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Cli:
    """`terascope` on a machine where nothing runs; `stdin` is what is piped in."""
    set_environment("TERASCOPE_DATA_DIR", str(tmp_path / "data"))
    set_environment("TERASCOPE_CACHE_DIR", str(tmp_path / "cache"))
    set_environment("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def call(*arguments: str, stdin: str = "") -> Result:
        before, sys.stdin = sys.stdin, io.StringIO(stdin)
        try:
            status = run(arguments)
        finally:
            sys.stdin = before
        return Result(status, *capfd.readouterr())

    return call


@pytest.fixture
def cli(bare: Cli, gateway: Served, set_environment: SetEnvironment) -> Cli:
    """`terascope` on the gateway's own machine."""
    set_environment("TERASCOPE_DATA_DIR", str(gateway.data_dir))
    return bare

"""The openvino worker's command line, and what it could not be started with."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from terascope.core.config import DeploymentConfig, EngineConfig
from terascope.core.errors import ConfigError
from terascope.core.models import ModelVersion, Task
from terascope.engines.contract import Endpoint, Launch
from terascope.engines.openvino.adapter import KIND
from terascope.engines.openvino.settings import WorkerSettings, parse_arguments
from terascope.engines.registry import engine_kind

VERSION = ModelVersion("smol", "1", "abc", "path:/m", "/m/smol", Task.GENERATE, 2048)
SOCKET = Endpoint("unix:/run/x.sock", "the secret")


def _launch(version: ModelVersion = VERSION, **fields: Any) -> Launch:
    return Launch(DeploymentConfig(model="smol", engine="openvino", **fields), version)


def _settings(command: tuple[str, ...]) -> WorkerSettings:
    assert command[1:3] == ("-m", "terascope.engines.openvino.worker")
    return parse_arguments(list(command[3:]))


def test_the_worker_understands_the_command() -> None:
    assert engine_kind("openvino") is KIND
    command = KIND.command(_launch(), SOCKET)
    assert command[0] == sys.executable
    assert _settings(command) == WorkerSettings(Path("/m/smol"), "smol@1", socket="/run/x.sock")
    assert not any("secret" in word for word in command)


def test_every_setting_reaches_the_worker() -> None:
    fields: dict[str, Any] = {"dtype": "bfloat16", "threads": 3, "max_batch": 5, "context_length": 100}
    found = _settings(KIND.command(_launch(**fields, options={"cache_gib": "7"}), Endpoint("http://10.0.0.1:81", "s")))
    assert found == WorkerSettings(Path("/m/smol"), "smol@1", host="10.0.0.1", port=81, cache_gib=7, **fields)


def test_a_program_of_the_site() -> None:
    launch = replace(_launch(), program=EngineConfig("/opt/ov/bin/python", environment={"A": "1"}))
    assert KIND.command(launch, SOCKET)[0] == "/opt/ov/bin/python"
    assert KIND.environment(launch, SOCKET) == {"A": "1"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dtype": "float16"}, "dtype 'float16' is none of float32, bfloat16"),
        ({"device": "cuda"}, "computes on the CPU"),
        ({"threads": -1}, "threads is -1"),
        ({"max_batch": -1}, "max_batch is -1"),
        ({"context_length": -5}, "context_length is -5"),
        ({"options": {"cache_gib": "0"}}, "cache_gib, a whole number from 1 on"),
        ({"options": {"cache_gb": "4"}}, "cache_gib, a whole number from 1 on"),
        ({"version": replace(VERSION, directory="")}, "needs the model's files"),
        ({"version": replace(VERSION, task=Task.EMBED)}, "makes no embeddings"),
    ],
)
def test_what_it_is_not_started_with(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        KIND.command(_launch(**fields), SOCKET)

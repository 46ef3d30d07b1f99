import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from terascope.core.config import DeploymentConfig
from terascope.core.errors import ConfigError
from terascope.core.models import ModelVersion, Task
from terascope.engines.contract import Endpoint, Launch
from terascope.engines.registry import engine_kind
from terascope.engines.torch.settings import WorkerSettings, parse_arguments
from terascope.engines.upstream import HttpEngine

VERSION = ModelVersion("tiny", "1", "abc", "path:/m", "/m/tiny", Task.GENERATE, 512)
SOCKET = Endpoint("unix:/run/x.sock", "secret")
KIND = engine_kind("torch")


def _command(endpoint: Endpoint = SOCKET, version: ModelVersion = VERSION, **fields: Any) -> tuple[str, ...]:
    return KIND.command(Launch(DeploymentConfig(model="tiny", **fields), version), endpoint)


def _settings(command: tuple[str, ...]) -> WorkerSettings:
    assert command[:3] == (sys.executable, "-m", "terascope.engines.torch.worker")
    return parse_arguments(list(command[3:]))


def test_the_worker_understands_the_command(tmp_path: Path, set_environment: Callable[[str, str], None]) -> None:
    set_environment("TERASCOPE_CACHE_DIR", str(tmp_path))
    assert _settings(_command()) == WorkerSettings(
        Path("/m/tiny"),
        "tiny@1",
        socket="/run/x.sock",
        task=Task.GENERATE,
        converted_dir=tmp_path / "converted" / "abc",
    )


def test_every_setting_reaches_the_worker() -> None:
    fields: dict[str, Any] = {"dtype": "bfloat16", "device": "cpu", "threads": 3, "max_batch": 5, "context_length": 100}
    options = {"cache_tokens": "2000", "step_tokens": "77", "extra_rows": "0"}
    found = _settings(_command(Endpoint("http://10.0.0.1:8123", "s"), **fields, options=options))
    for name, value in fields.items():
        assert getattr(found, name) == value
    assert (found.host, found.port) == ("10.0.0.1", 8123)
    assert (found.cache_tokens, found.step_tokens, found.extra_rows) == (2000, 77, 0)
    assert _settings(_command(version=replace(VERSION, task=Task.EMBED))).task is Task.EMBED


def test_the_secret_is_not_on_the_command_line() -> None:
    assert not any("secret" in word for word in _command())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dtype": "int4"}, "int4"),
        ({"threads": -1}, "threads"),
        ({"context_length": -1}, "context_length"),
        ({"max_batch": -1}, "max_batch"),
        ({"options": {"magic": "1"}}, "magic"),
        ({"options": {"cache_tokens": "many"}}, "many"),
        ({"options": {"step_tokens": "0"}}, "from 1 on"),
        ({"options": {"extra_rows": "-1"}}, "extra_rows"),
    ],
)
def test_impossible_settings(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        _command(**fields)


def test_a_model_without_files_cannot_be_served() -> None:
    with pytest.raises(ConfigError, match="files"):
        _command(version=replace(VERSION, directory=""))


def test_connecting_makes_an_http_engine() -> None:
    assert isinstance(KIND.connect(Launch(DeploymentConfig(model="tiny"), VERSION), SOCKET), HttpEngine)


def test_the_adapter_needs_no_torch() -> None:
    heavy = "{'torch', 'transformers', 'aiohttp'}"
    code = f"import sys, terascope.engines.torch.adapter; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--model-dir", "x", "--served-name", "y"],
        ["--model-dir", "x", "--served-name", "y", "--socket", "s", "--port", "1"],
        ["--model-dir", "x", "--served-name", "y", "--socket", "s", "--dtype", "int4"],
        ["--model-dir", "x", "--served-name", "y", "--socket", "s", "--threads", "-1"],
        ["--model-dir", "x", "--served-name", "y", "--socket", "s", "--max-batch", "0"],
    ],
)
def test_a_wrong_command_line_ends_with_a_message(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(arguments)
    assert "usage" in capsys.readouterr().err

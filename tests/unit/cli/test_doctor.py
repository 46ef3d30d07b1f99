"""`terascope doctor`: what it finds, and what it says to do."""

import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from terascope.cli.checks.configuration import check_configuration, check_port, read_configuration
from terascope.cli.checks.finding import Finding, Level
from terascope.cli.checks.gateway import check_gateway, check_model
from terascope.cli.checks.machine import check_machine
from terascope.cli.connection import Connection
from terascope.cli.doctor import _bind
from terascope.client import Client
from terascope.core.config import AuthConfig, Config, DeploymentConfig, IssuerConfig, ModelConfig, ServerConfig
from terascope.protocol.admin import FileView, ModelView
from terascope.testing.gateway import Served

from .conftest import Cli, SetEnvironment

ECHO = DeploymentConfig(model="echo", engine="echo", launcher="inprocess")
VIEW = ModelView(
    name="m", version="1", digest="d", source="path:/m", directory="/m", task="generate", context_length=1,
    architecture="", parameters=0, licence="", chat_template_sha256="", tokenizer_sha256="", life_cycle="stable",
    created=0, aliases=[], state="ready", files=[],
)  # fmt: skip


def _find(found: Iterator[Finding], about: str) -> Finding:
    by_name = {one.about: one for one in found}
    return by_name[about]


# the machine


def test_a_good_machine(tmp_path: Path) -> None:
    found = {one.about: one for one in check_machine(tmp_path / "data", tmp_path / "cache", needs_torch=False)}
    assert list(found) == [
        "python", "cores", "memory", "data directory", "model cache", "open files", "sockets", "torch", "gpu",
    ]  # fmt: skip
    assert found["python"].says.startswith(sys.version.split()[0])
    assert str(tmp_path / "data") in found["data directory"].says
    assert not (tmp_path / "data").exists()
    assert all(one.advice or one.level is Level.OK for one in found.values())


def test_sockets_need_a_directory_that_takes_them(tmp_path: Path) -> None:
    """In a process of its own: Python asks for TMPDIR once."""
    far = tmp_path / ("long" * 25)
    far.mkdir()
    program = "from terascope.cli.checks.machine import _sockets; f = _sockets(); print(f.level, f.advice, sep=chr(10))"
    environment = os.environ | {"TMPDIR": str(far)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["error", "set TMPDIR to a local disk"]


def test_few_open_files_are_a_warning() -> None:
    program = "from terascope.cli.checks.machine import _files; f = _files(); print(f.level, f.says)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, preexec_fn=_allow_few_files
    )
    assert done.stdout == "warning at most 512\n"


def _allow_few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512))


# the configuration


def test_the_default_configuration_is_well(tmp_path: Path) -> None:
    config, read = read_configuration(None)
    assert config is not None
    assert (read.level, read.says) == (Level.OK, "2 models, 2 deployments")
    models = [one for one in check_configuration(config, tmp_path) if one.about.startswith("model ")]
    assert [one.level for one in models] == [Level.OK, Level.OK]


def test_a_file_with_an_unknown_key(tmp_path: Path) -> None:
    path = tmp_path / "terascope.yaml"
    path.write_text("server:\n  prot: 1\n")
    config, read = read_configuration(path)
    assert (config, read.level) == (None, Level.ERROR)
    assert "there is no key server.prot; did you mean port?" in read.says


@pytest.mark.parametrize(
    ("source", "level", "says"),
    [
        ("pypi:package==1", Level.OK, "pypi:package==1"),
        ("hf:org/name@" + "a" * 40, Level.OK, "hf:org/name@aaaa"),
        ("hf:org/name@main", Level.WARNING, "may mean other files tomorrow"),
        ("path:/nowhere/at/all", Level.ERROR, "there is no directory /nowhere/at/all"),
        ("ftp:somewhere", Level.ERROR, "is not a model source"),
        ("", Level.ERROR, "is not a model source"),
    ],
)
def test_the_source_of_a_model(tmp_path: Path, source: str, level: Level, says: str) -> None:
    config = Config(models={"m": ModelConfig(source=source)}, deployments=[ECHO])
    found = _find(check_configuration(config, tmp_path), "model m")
    assert (found.level, says in found.says) == (level, True)


def test_a_source_that_is_there(tmp_path: Path) -> None:
    config = Config(models={"m": ModelConfig(source=f"path:{tmp_path}")})
    assert _find(check_configuration(config, tmp_path), "model m").level is Level.OK


@pytest.mark.parametrize(
    ("change", "level", "says"),
    [
        ({}, Level.OK, "echo"),
        ({"engine": "ecko"}, Level.ERROR, "there is no engine 'ecko'"),
        ({"launcher": "ladder"}, Level.ERROR, "there is no launcher 'ladder'"),
        ({"model": "?"}, Level.ERROR, "is not a model name"),
        ({"modes": ["query", "guess"]}, Level.ERROR, "there is no mode 'guess'"),
        ({"options": {"delay_ms": "long"}}, Level.ERROR, "delay_ms"),
        ({"engine": "remote"}, Level.ERROR, "no url"),
        ({"engine": "torch", "dtype": "int3", "launcher": "local"}, Level.ERROR, "dtype"),
    ],
)
def test_a_deployment(tmp_path: Path, change: dict[str, object], level: Level, says: str) -> None:
    config = Config(deployments=[replace(ECHO, name="d", **change)])  # type: ignore[arg-type]
    found = _find(check_configuration(config, tmp_path), "deployment d")
    assert (found.level, says in found.says) == (level, True), found


def test_a_configuration_that_serves_nothing(tmp_path: Path) -> None:
    assert _find(check_configuration(Config(), tmp_path), "deployments").level is Level.WARNING


@pytest.mark.parametrize(
    ("audience", "level", "says"), [("us", Level.OK, "sso.test"), ("", Level.ERROR, "say what `aud` must name")]
)
def test_issuers(tmp_path: Path, audience: str, level: Level, says: str) -> None:
    issuer = IssuerConfig(url="https://sso.test", audience=audience)
    found = _find(check_configuration(Config(auth=AuthConfig(issuers=[issuer])), tmp_path), "issuers")
    assert (found.level, says in found.says) == (level, True)


def test_the_port(gateway: Served) -> None:
    assert check_port(ServerConfig(port=0), _bind).level is Level.OK
    taken = ServerConfig(port=int(gateway.url.rpartition(":")[2]))
    assert check_port(taken, _bind) == Finding(f"port {taken.port}", Level.OK, "a Terascope gateway listens there")
    with socket.socket() as strange:
        strange.bind(("127.0.0.1", 0))  # bound, but it takes no connection
        found = check_port(ServerConfig(port=strange.getsockname()[1]), _bind)
    assert (found.level, "cannot listen" in found.says) == (Level.ERROR, True)


# the gateway


def test_a_gateway_that_is_well(gateway: Served) -> None:
    found = list(check_gateway(Connection(gateway.url, gateway.key)))
    assert {one.level for one in found} == {Level.OK}
    assert [one.about for one in found][:3] == ["gateway", "deployment echo", "deployment slow"]
    assert any(one.about.startswith("model echo@") for one in found)


def test_a_gateway_that_cannot_be_asked(gateway: Served) -> None:
    assert [one.level for one in check_gateway(Connection("http://127.0.0.1:9", "key"))] == [Level.ERROR]
    assert [one.level for one in check_gateway(Connection("", "", found=False))] == [Level.WARNING]
    with Client(gateway.url, gateway.key) as client:
        visitor = client.keys.create("visitor").key
    for key, level, says in (
        ("", Level.WARNING, "there is no key"),
        (visitor, Level.WARNING, "takes an operator's key"),
        ("wrong", Level.ERROR, "not known here"),
    ):
        found = _find(check_gateway(Connection(gateway.url, key)), "models")
        assert (found.level, says in found.says) == (level, True)


def test_files_that_are_damaged(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("whole")
    (tmp_path / "b").write_text("cut")
    files = [FileView(path=name, size=5, sha256="") for name in "abc"]
    model = VIEW.model_copy(update={"directory": str(tmp_path), "files": files})
    found = check_model(model, here=True)
    assert found.level is Level.ERROR
    assert found.says == f"{tmp_path / 'b'} has 3 bytes in place of 5 and 1 more"
    assert "terascope models remove m@1" in found.advice
    assert check_model(model, here=False).level is Level.OK
    whole = model.model_copy(update={"files": files[:1]})
    assert check_model(whole, here=True) == Finding("model m@1", Level.OK, "ready, 1 files")


# the command


@pytest.fixture
def configuration(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        path = tmp_path / "terascope.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_the_command(cli: Cli, configuration: Callable[[str], str]) -> None:
    path = configuration(
        "server: {port: 0}\nmodels: {m: {source: 'hf:a/b'}}\ndeployments: [{model: echo, engine: echo}]\n"
    )
    told = cli("doctor", "--config", path)
    assert (told.status, told.err) == (0, "")
    lines = told.out.splitlines()
    assert [line for line in lines if line in ("machine", "configuration", "gateway")] == [
        "machine", "configuration", "gateway",
    ]  # fmt: skip
    assert f"  ✓ {path}: 1 models, 1 deployments" in lines
    at = lines.index("  ! model m: hf:a/b may mean other files tomorrow")
    assert lines[at + 1] == "      name the revision by its 40 hex digits"
    assert "  ✓ deployment slow: ready" in lines


def test_a_program_reads_it_as_json(
    bare: Cli, configuration: Callable[[str], str], set_environment: SetEnvironment
) -> None:
    set_environment("TERASCOPE_CONFIG", configuration("deployments: [{model: m, engine: steam}]\nserver: {port: 0}\n"))
    told = bare("doctor", "--json")
    assert told.status == 1
    found = json.loads(told.out)
    assert {tuple(one) for one in found} == {("part", "about", "level", "says", "advice")}
    (wrong,) = (one for one in found if one["level"] == "error")
    assert wrong["about"] == "deployment m"
    assert wrong["says"] == "there is no engine 'steam'; choose one of echo, openvino, remote, torch, vllm"
    assert wrong["advice"] == "mend it under `deployments:`"

"""deploy and apply, asked of a real gateway."""

import re
from pathlib import Path

import pytest
import yaml

from .conftest import Cli

_ECHO = ("--engine", "echo", "--launcher", "inprocess")
_DEPLOYMENT: dict[str, object] = {"name": "from-file", "model": "filed", "engine": "echo", "launcher": "inprocess"}


def test_a_deployment_from_its_making_to_its_end(cli: Cli) -> None:
    assert "`terascope deploy show parrot` follows it" in cli("deploy", "create", "parrot", "parrot", *_ECHO).out
    assert re.search(r"^parrot +parrot +echo +this machine +\d/1 +\w+$", cli("deploy", "list").out, re.MULTILINE)
    assert cli("deploy", "scale", "parrot", "2").out == "parrot keeps 2 replicas\n"
    shown = cli("deploy", "show", "parrot").out
    assert re.search(r"^wanted +2 replicas$[\s\S]*^made by +an operator, 20", shown, re.MULTILINE)
    assert len(cli("deploy", "show", "parrot", "--json").json["running"]) == 2
    assert cli("deploy", "logs", "parrot").out == ""
    assert cli("deploy", "logs", "parrot", "--all-ranks").out == "==> rank 0 <==\n\n"
    told = cli("deploy", "logs", "parrot", "--rank", "1")
    assert (told.status, "has no log of rank 1" in told.err) == (1, True)
    told = cli("deploy", "logs", "parrot", "--all-ranks", "--follow")
    assert (told.status, "--rank and --follow" in told.err) == (1, True)
    assert "`terascope deploy scale parrot 1`" in cli("deploy", "stop", "parrot").out
    assert re.search(r"^wanted +stopped$", cli("deploy", "show", "parrot").out, re.MULTILINE)
    assert cli("deploy", "remove", "parrot").out == "parrot is removed\n"
    told = cli("deploy", "show", "parrot")
    assert (told.status, "there is no deployment 'parrot'" in told.err) == (1, True)


def test_what_the_configuration_declares_is_changed_there(cli: Cli) -> None:
    name = cli("deploy", "list", "--json").json[0]["name"]
    told = cli("deploy", "scale", name, "2")
    assert (told.status, "stands in the configuration" in told.err) == (1, True)
    assert re.search(r"^made by +the configuration$", cli("deploy", "show", name).out, re.MULTILINE)


def test_the_load_says_how_many(cli: Cli) -> None:
    cli("deploy", "create", "echoes", "echoes", *_ECHO, "--min", "0", "--max", "3", "--idle", "5m", "--qos", "batch")
    shown = cli("deploy", "show", "echoes")
    assert re.search(r"^wanted +0 to 3 replicas by the load, 0 now$", shown.out, re.MULTILINE)
    settings = cli("deploy", "show", "echoes", "--json").json["settings"]
    assert (settings["idle_s"], settings["qos"]) == (300.0, ["batch"])
    assert cli("deploy", "scale", "echoes", "--min", "1").out == "echoes keeps 1 replicas\n"
    told = cli("deploy", "scale", "echoes")
    assert (told.status, "say how many replicas" in told.err) == (1, True)
    cli("deploy", "remove", "echoes")


def test_a_dry_run_starts_nothing(cli: Cli) -> None:
    shown = cli("deploy", "create", "dry", "dry", "--engine", "echo", "--option", "delay_ms=5", "--dry-run").out
    assert "terascope.engines.echo.server" in shown
    assert "--delay-ms 5" in shown
    assert "dry" not in [one["name"] for one in cli("deploy", "list", "--json").json]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--replicas", "-1"), "replicas"),
        (("--tensor", "0"), "tensor"),
        (("--option", "alone"), "must be NAME=VALUE"),
        (("--min", "2", "--max", "1"), "write 0 <= min <= max"),
        (("--idle", "soon"), "is no duration; write 90s, 10m or 2h"),
        (("--site", "moon"), "there is no site 'moon'"),
        (("--option", "speed=9"), "has no option 'speed'"),
    ],
)
def test_mistakes(cli: Cli, arguments: tuple[str, ...], words: str) -> None:
    told = cli("deploy", "create", "wrong", "wrong", "--engine", "echo", *arguments)
    assert told.status != 0
    assert words in told.err


def _write(path: Path, *deployments: dict[str, object], **more: object) -> str:
    path.write_text(yaml.safe_dump({"deployments": list(deployments), **more}))
    return str(path)


def test_a_file_applied_twice(cli: Cli, tmp_path: Path) -> None:
    file = _write(tmp_path / "serving.yaml", _DEPLOYMENT)
    assert cli("apply", file, "--dry-run").out == "deployment from-file: would be created\n"
    assert cli("apply", file).out == "deployment from-file: created\n"
    assert cli("apply", file, "--dry-run").out == "deployment from-file: would be unchanged\n"
    assert cli("apply", file).out == "deployment from-file: unchanged\n"
    more = _write(tmp_path / "more.yaml", _DEPLOYMENT | {"replicas": 2}, {**_DEPLOYMENT, "name": "second"})
    assert cli("apply", more).out == "deployment from-file: changed\ndeployment second: created\n"
    assert "second: would be removed" in cli("apply", file, "--prune", "--dry-run").out
    assert cli("apply", file, "--prune").out.splitlines()[-1] == "deployment second: removed"
    assert cli("apply", _write(tmp_path / "none.yaml"), "--prune").out == "deployment from-file: removed\n"


def test_a_file_says_no_more_than_is_applied(cli: Cli, tmp_path: Path) -> None:
    told = cli("apply", _write(tmp_path / "x.yaml", server={"port": 9000}))
    assert (told.status, "server belongs into the gateway's own configuration" in told.err) == (1, True)
    told = cli("apply", _write(tmp_path / "y.yaml", {**_DEPLOYMENT, "replica": 2}))
    assert "did you mean replicas?" in told.err


def test_events_tell_what_happened_and_why(cli: Cli) -> None:
    cli("deploy", "create", "eventful", "eventful", *_ECHO)
    cli("deploy", "remove", "eventful")
    events = cli("deploy", "events", "eventful", "--json").json
    assert [one["what"] for one in events if not one["replica"]] == ["created", "removed"]
    of_replica = [one["what"] for one in events if one["replica"]]
    assert of_replica[0] == "pending"
    assert events == sorted(events, key=lambda one: one["time"])
    assert re.search(r"^20\S+ \S+ +replica_\w+ +pending +waits", cli("deploy", "events", "eventful").out, re.MULTILINE)
    told = cli("deploy", "events", "never")
    assert (told.status, "there is no deployment 'never'" in told.err) == (1, True)

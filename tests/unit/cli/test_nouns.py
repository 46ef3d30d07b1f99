"""models, keys, runs and version, asked of a real gateway."""

import os
import re
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
import typer

from terascope import __version__
from terascope.cli.files import private_file
from terascope.cli.keys import expiry
from terascope.cli.models import absolute
from terascope.client import Client
from terascope.core.errors import Conflict
from terascope.testing.checkpoints import checkpoint, write_files
from terascope.testing.gateway import Served

from .conftest import Cli

NOW = 1_800_000_000.0


@pytest.fixture
def visitor(gateway: Served) -> Iterator[str]:
    """A key that may ask models, and nothing else."""
    with Client(gateway.url, gateway.key) as client:
        yield client.keys.create("visitor", ["query"]).key


def _ask(gateway: Served, key: str, text: str = "one two") -> str:
    with Client(gateway.url, key) as client, client.chat("echo", [{"role": "user", "content": text}]) as stream:
        list(stream)
        return stream.request_id


# models


def test_an_operator_sees_the_catalogue(cli: Cli) -> None:
    told = cli("models", "list")
    assert told.out.split()[:6] == ["model", "state", "task", "context", "size", "aliases"]
    assert re.search(r"^echo@\w{12} +ready +generate", told.out, re.MULTILINE)
    rows = {row["name"]: row for row in cli("models", "list", "--json").json}
    assert rows["echo"]["state"] == "ready"
    assert cli("models", "show", "echo", "--json").json == rows["echo"]
    assert re.search(rf"^digest +{rows['echo']['digest']}$", cli("models", "show", "echo").out, re.MULTILINE)


def test_others_see_what_is_served(cli: Cli, visitor: str) -> None:
    told = cli("models", "list", "--key", visitor)
    assert re.search(r"^echo +ready +embed query +131,072 +echo@\w{12}$", told.out, re.MULTILINE)
    rows = {row["id"]: row for row in cli("models", "list", "--json", "--key", visitor).json}
    assert cli("models", "show", "echo", "--json", "--key", visitor).json == rows["echo"]
    assert re.search(r"^modes +embed, query$", cli("models", "show", "echo", "--key", visitor).out, re.MULTILINE)


def test_aliases(cli: Cli) -> None:
    assert re.fullmatch(r"lab/parrot now means echo@\w{12}\n", cli("models", "alias", "lab/parrot", "echo").out)
    assert cli("models", "show", "lab/parrot", "--json").json["aliases"] == ["lab/parrot"]
    assert cli("models", "unalias", "lab/parrot").out == "lab/parrot is no alias any more\n"
    assert cli("models", "show", "lab/parrot").status == 1


def test_a_model_is_added_from_a_relative_path_shown_and_removed(cli: Cli, tmp_path: Path) -> None:
    write_files(tmp_path / "tiny", checkpoint())
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        added = cli(
            "models", "add", "tiny", "path:tiny", "--version", "1", "--alias", "t", "--alias", "u", "--json"
        ).json
    finally:
        os.chdir(before)
    assert added["source"] == f"path:{tmp_path / 'tiny'}"
    assert (added["version"], added["aliases"]) == ("1", ["t", "u"])
    shown = cli("models", "show", "t").out
    assert re.search(r"^name +tiny$[\s\S]*^aliases +t, u$[\s\S]*^files +\d+, [\d.]+ k?B$", shown, re.MULTILINE)
    assert re.search(r"^tiny@1 +\w+ +generate .* t u$", cli("models", "list").out, re.MULTILINE)
    assert cli("models", "remove", "tiny@1").status == 1
    assert [cli("models", "unalias", alias).status for alias in ("t", "u")] == [0, 0]
    assert cli("models", "remove", "tiny@1").out == "tiny@1 is removed from the catalogue; its files stay\n"
    assert (tmp_path / "tiny").is_dir()
    assert "tiny" not in cli("models", "list").out


def test_a_model_that_cannot_be_added(cli: Cli, tmp_path: Path) -> None:
    told = cli("models", "add", "none", f"path:{tmp_path / 'none'}")
    assert (told.status, told.out) == (1, "")
    assert told.err == f"terascope: there is no directory {tmp_path / 'none'} on the gateway's machine\n"
    assert "write path:DIR, hf:org/name@revision or pypi:package==version" in cli("models", "add", "none", "none").err


def test_only_one_version_is_removed_at_a_time(cli: Cli) -> None:
    told = cli("models", "remove", "echo")
    assert (told.status, "write NAME@VERSION" in told.err) == (2, True)
    assert "terascope models list" in cli("models", "remove", "echo@none").err


def test_a_relative_path_is_told_as_the_gateway_must_hear_it() -> None:
    assert absolute("path:models/tiny") == f"path:{Path.cwd() / 'models/tiny'}"
    assert absolute("path:~/tiny") == f"path:{Path.home() / 'tiny'}"
    for other in ("path:/models/tiny", "path:", "hf:org/name@abc", "pypi:package==1", "odd"):
        assert absolute(other) == other


# keys


def test_a_key_is_made_listed_and_revoked(cli: Cli, gateway: Served) -> None:
    made = cli("keys", "create", "Ada's laptop", "--scope", "query", "--expires", "30d")
    key = made.out.strip()
    assert "It is shown only now." in made.err
    row = next(row for row in cli("keys", "list", "--json").json if row["name"] == "Ada's laptop")
    assert (row["scopes"], key.startswith(row["prefix"])) == (["query"], True)
    assert row["expires"] == pytest.approx(time.time() + 30 * 86400, abs=60)
    assert key not in cli("keys", "list").out
    assert _ask(gateway, key)
    assert cli("keys", "revoke", row["id"]).out == f"{row['id']} (Ada's laptop) is revoked\n"
    assert re.search(rf"^{row['id']} .* revoked \d{{4}}-", cli("keys", "list").out, re.MULTILINE)
    assert "has been revoked" in cli("models", "list", "--key", key).err


def test_a_key_goes_to_a_file_and_not_to_the_terminal(cli: Cli, gateway: Served, tmp_path: Path) -> None:
    path = tmp_path / "key"
    told = cli("keys", "create", "script", "--key-file", str(path))
    key = path.read_text().strip()
    assert (path.stat().st_mode & 0o777, told.status) == (0o600, 0)
    assert key not in told.out + told.err
    assert _ask(gateway, key)
    again = cli("keys", "create", "script", "--key-file", str(path))
    assert (again.status, again.err) == (1, f"terascope: {path} is there already; remove it or name another file\n")
    assert path.read_text().strip() == key
    assert "key" not in cli("keys", "create", "x", "--key-file", str(tmp_path / "other"), "--json").json


def test_a_key_that_cannot_be_made_leaves_no_file(cli: Cli, tmp_path: Path) -> None:
    told = cli("keys", "create", "odd", "--scope", "everything", "--key-file", str(tmp_path / "key"))
    assert "there is no scope 'everything'" in told.err
    assert not (tmp_path / "key").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12h", NOW + 12 * 3600), ("30d", NOW + 30 * 86400), ("8w", NOW + 56 * 86400),
        ("2027-01-01", datetime(2027, 1, 1).timestamp()), ("2027-01-01T12:00:00+00:00", 1_798_804_800.0),
    ],
)  # fmt: skip
def test_when_a_key_expires(text: str, expected: float) -> None:
    assert expiry(text, NOW) == expected


@pytest.mark.parametrize("text", ["soon", "30", "30m", "-1d", "2027-13-01", "9999999d"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="write 12h, 30d, 8w or a date like 2027-01-01"):
        expiry(text, NOW)


def test_a_private_file_is_never_half_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(ZeroDivisionError), private_file(path) as file:
        file.write(str(1 / 0))
    assert not path.exists()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Conflict, match="is there already"), private_file(path):
        pass
    with pytest.raises(Conflict, match="cannot write"), private_file(tmp_path / "none" / "file"):
        pass


# runs


def test_runs(cli: Cli, gateway: Served, visitor: str) -> None:
    mine = [_ask(gateway, visitor) for _ in range(3)]
    other = _ask(gateway, gateway.key)
    everything = [run["id"] for run in cli("runs", "list", "--json").json]
    assert everything[:4] == [other, *reversed(mine)]
    rows = cli("runs", "list", "--json", "--limit", "2", "--key", visitor).json
    assert [run["id"] for run in rows] == [mine[2], mine[1]]
    assert cli("runs", "show", mine[2], "--json").json == rows[0]
    by_key = cli("runs", "list", "--json", "--key-id", rows[0]["key_id"]).json
    assert [run["id"] for run in by_key] == list(reversed(mine))
    assert cli("runs", "list", "--json", "--model", rows[0]["model"], "--limit", "1").json[0]["id"] == other
    assert re.search(
        rf"^{other} .* echo@\w+ +chat/completions +completed +2 +2 ", cli("runs", "list").out, re.MULTILINE
    )
    shown = cli("runs", "show", other).out
    assert re.search(r"^outcome +completed$", shown, re.MULTILINE)
    assert re.search(r"^cached_tokens +0$", shown, re.MULTILINE)
    assert re.search(r"^total_s +[\d.]+ m?s$", shown, re.MULTILINE)


def test_no_runs(cli: Cli) -> None:
    told = cli("runs", "list", "--model", "none@1")
    assert (told.status, told.out, told.err) == (0, "", "there is no such run\n")
    assert cli("runs", "show", "req_none").status == 1


def test_long_listings_are_read_page_by_page(gateway: Served, visitor: str) -> None:
    from terascope.cli import runs

    with Client(gateway.url, visitor) as client:
        mine = [_ask(gateway, visitor) for _ in range(5)]
        before, runs._PAGE = runs._PAGE, 2
        try:
            assert [run.id for run in runs._newest(client, 4, "", "")] == list(reversed(mine))[:4]
            assert [run.id for run in runs._newest(client, 99, "", "")] == list(reversed(mine))
        finally:
            runs._PAGE = before


# version


def test_version(bare: Cli) -> None:
    found = bare("version", "--json").json
    assert found["terascope"] == __version__
    assert set(found) == {"terascope", "python", "openvino-genai", "torch", "transformers", "vllm"}
    assert re.search(rf"^terascope +{re.escape(__version__)}$", bare("version").out, re.MULTILINE)

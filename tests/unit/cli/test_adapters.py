"""adapters, asked of a real gateway that knows of a small model."""

import re
from pathlib import Path

import pytest

from terascope.client import Client
from terascope.testing.adapters import adapter
from terascope.testing.checkpoints import checkpoint, write_files
from terascope.testing.gateway import Served

from .conftest import Cli


@pytest.fixture(scope="module")
def files(gateway: Served, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter's directory, `french`; its base `small` is in the catalogue."""
    root = tmp_path_factory.mktemp("adapters")
    with Client(gateway.url, gateway.key) as client:
        client.catalog.add("small", f"path:{write_files(root / 'model', checkpoint())}", version="1")
    return write_files(root / "french", adapter())


def test_adding_listing_showing_removing(cli: Cli, files: Path) -> None:
    assert "there are no adapters" in cli("adapters", "list").err
    told = cli("adapters", "add", str(files), "--base", "small", "--version", "3", "--licence", "mit")
    assert told.status == 0, told.err
    assert re.search(r"^name +small:french$", told.out, re.MULTILINE)
    assert re.search(r"^parent +small@1$", told.out, re.MULTILINE)
    listed = cli("adapters", "list").out
    assert re.search(r"^small:french@3 +stopped +small@1 .*mit", listed, re.MULTILINE)
    (one,) = cli("adapters", "list", "--json").json
    assert cli("adapters", "show", "small:french", "--json").json == one
    assert (one["licence"], one["owner"], one["parameters"]) == ("mit", "", 16)
    assert cli("adapters", "remove", "small:french").status == 2
    told = cli("adapters", "remove", "small:french@3")
    assert told.out == "small:french@3 is removed from the catalogue; its files stay\n"
    assert cli("adapters", "list", "--json").json == []
    assert files.exists()


def test_a_name_and_a_project_of_its_own(cli: Cli, files: Path) -> None:
    added = cli(
        "adapters", "add", f"path:{files}", "--base", "small", "--name", "fr", "--project", "local", "--json"
    ).json
    assert (added["name"], added["owner"]) == ("small:fr", "local")
    cli("adapters", "remove", f"small:fr@{added['version']}")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--base", "echo"], "takes no adapters"),
        (["--base", "nothing"], "there is no model"),
        (["--base", "small", "--project", "nobody"], "nobody"),
        (["--base", "small", "--name", "a:b"], "colon"),
        (["--base", "small", "--version", "a b"], "not a model name"),
    ],
)
def test_what_is_refused(cli: Cli, files: Path, arguments: list[str], word: str) -> None:
    told = cli("adapters", "add", str(files), *arguments)
    assert told.status == 1
    assert word in told.err
    assert len(told.err.splitlines()) == 1

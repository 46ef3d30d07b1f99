"""`terascope vector-stores`, asked of a real gateway."""

import re
from pathlib import Path

from .conftest import Cli

MOON = "The Moon goes around the Earth."


def test_a_store_from_its_making_to_its_end(cli: Cli, tmp_path: Path) -> None:
    made = cli("vector-stores", "create", "sky", "--model", "echo", "--days", "3")
    store = made.out.split()[0]
    assert re.fullmatch(rf"{store}  sky \(echo@\w+\)\n", made.out)
    (tmp_path / "moon.md").write_text(MOON)
    (tmp_path / "mars.md").write_text("Mars has two moons.")
    mars = cli("files", "add", str(tmp_path / "mars.md")).out.split()[0]
    added = cli("vector-stores", "add", store, str(tmp_path / "moon.md"), mars)
    assert re.search(r"moon.md +completed +1 ", added.out), added
    assert re.search(rf"{mars} +mars.md +completed +1 ", added.out)
    assert re.search(rf"^{store} +sky +completed +2 ", cli("vector-stores", "list").out, re.MULTILINE)
    shown = cli("vector-stores", "show", store)
    assert re.search(r"^version +1$", shown.out, re.MULTILINE)
    assert "2 completed" in shown.out
    assert len(cli("vector-stores", "show", store, "--json").json["files"]) == 2
    found = cli("vector-stores", "search", store, MOON, "--results", "1")
    assert re.search(rf"^version 1\n\n1.000 +moon.md \(\w+\), characters 0 to {len(MOON)}$", found.out, re.MULTILINE)
    assert MOON in found.out
    assert cli("vector-stores", "remove", store, mars).out == f"{mars} is not in {store} any more\n"
    assert [one["filename"] for one in cli("vector-stores", "search", store, "x", "--json").json["data"]] == ["moon.md"]
    then = cli("vector-stores", "search", store, "x", "--version", "1", "--json").json
    assert {one["filename"] for one in then["data"]} == {"moon.md", "mars.md"}
    assert cli("vector-stores", "remove", store).out == f"{store} is gone\n"
    assert "there is no vector store" in cli("vector-stores", "show", store).err


def test_what_cannot_be(cli: Cli, tmp_path: Path) -> None:
    assert "ModelNotFound" not in cli("vector-stores", "create", "x", "--model", "none").err
    store = cli("vector-stores", "create", "x", "--model", "echo").out.split()[0]
    (tmp_path / "empty.txt").touch()
    added = cli("vector-stores", "add", store, str(tmp_path / "empty.txt"))
    assert added.status == 1
    assert "the file has no text in it" in added.out
    assert "1 of 1 files cannot be used" in added.err
    assert "cannot read" in cli("vector-stores", "add", store, str(tmp_path / "none")).err
    assert "--filters is no JSON" in cli("vector-stores", "search", store, "x", "--filters", "{").err
    assert "--filters must be a JSON object" in cli("vector-stores", "search", store, "x", "--filters", "1").err
    assert cli("vector-stores", "create", "x", "--days", "366").status == 2

"""`terascope files`, asked of a real gateway."""

import re
from pathlib import Path

from .conftest import Cli


def test_a_file_from_its_upload_to_its_end(cli: Cli, tmp_path: Path) -> None:
    assert cli("files", "list", "--purpose", "prompts").err == "there is no such file\n"
    (tmp_path / "p.jsonl").write_text("one\ntwo\n")
    made = cli("files", "add", str(tmp_path / "p.jsonl"), "--purpose", "prompts", "--days", "1")
    file_id = made.out.split()[0]
    assert made.out == f"{file_id}  p.jsonl (8 B)\n"
    assert re.search(rf"^{file_id} +p.jsonl +prompts +8 B +20\S+ \S+ +20", cli("files", "list").out, re.MULTILINE)
    shown = cli("files", "show", file_id)
    assert re.search(r"^project +local$", shown.out, re.MULTILINE)
    one = cli("files", "show", file_id, "--json").json
    assert one["expires_at"] - one["created_at"] == 86_400
    assert cli("files", "get", file_id, str(tmp_path / "out")).out == f"{tmp_path}/out (8 B)\n"
    assert (tmp_path / "out").read_text() == "one\ntwo\n"
    assert "is there already" in cli("files", "get", file_id, str(tmp_path / "out")).err
    assert cli("files", "remove", file_id).out == f"{file_id} is gone\n"
    gone = cli("files", "show", file_id)
    assert (gone.status, f"there is no file '{file_id}'" in gone.err) == (1, True)


def test_what_cannot_be(cli: Cli, tmp_path: Path) -> None:
    assert "cannot read" in cli("files", "add", str(tmp_path / "none")).err
    (tmp_path / "a").touch()
    assert "did you mean `batch`" in cli("files", "add", str(tmp_path / "a"), "--purpose", "bach").err
    assert cli("files", "add", str(tmp_path / "a"), "--days", "31").status == 2

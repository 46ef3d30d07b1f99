"""The file that a trainer tells in: whole lines only, whatever happened to the one before."""

import json
import resource
from pathlib import Path

import pytest

from terascope.engines.torch.tuning.progress import Progress


def test_what_is_told_is_there_at_once_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    for number in (1, 2):
        with Progress(path) as progress:
            progress.tell("step", step=number)
            assert json.loads(path.read_text().splitlines()[-1]) == {"kind": "step", "step": number}
    assert len(path.read_text().splitlines()) == 2


@pytest.mark.parametrize("left", ['{"kind": "st', "x"])
def test_a_line_that_was_left_unfinished_is_cut_off(tmp_path: Path, left: str) -> None:
    path = tmp_path / "progress.jsonl"
    path.write_text('{"kind": "one"}\n' + left)
    with Progress(path) as progress:
        progress.tell("two")
    assert [json.loads(line)["kind"] for line in path.read_text().splitlines()] == ["one", "two"]


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk."""
    path = tmp_path / "progress.jsonl"
    with Progress(path) as progress:
        progress.tell("one")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, before[1]))
        try:
            with pytest.raises(OSError, match="No space left"):
                progress.tell("two")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        progress.tell("three")
    assert [json.loads(line)["kind"] for line in path.read_text().splitlines()] == ["one", "three"]

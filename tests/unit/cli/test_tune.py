"""`terascope tune`, asked of a real gateway; and the loss curve."""

import re
from pathlib import Path

import pytest

from terascope.cli.curve import Curve
from terascope.core.errors import BadRequest
from terascope.protocol.tuning_views import JobEvent

from .conftest import Cli


def event(number: int, **data: float) -> JobEvent:
    return JobEvent(
        id=f"ftevent_{number:03d}", created_at=0, level="info", message="", type="metrics",
        data={"step": number, "total_steps": 20, **data},
    )  # fmt: skip


def falling() -> list[JobEvent]:
    return [
        event(0, valid_loss=4.0),
        *(event(n, train_loss=4.0 - 0.2 * n) for n in range(1, 11)),
        event(10, valid_loss=2.1),
    ]


def test_a_curve_in_the_terminal() -> None:
    lines = Curve().take(falling()).lines(width=41, height=5)
    assert [line.partition("|")[0].strip() for line in lines[:5]] == ["4.000", "", "", "", "2.000"]
    assert lines[0].endswith("|o · ·") or lines[0].endswith("|o ·")
    assert lines[4].rstrip().endswith("o")  # the last held-out loss, in the middle: ten steps are to come
    assert lines[4].index("o") == lines[4].index("|") + 21
    assert lines[6].split() == ["step", "0", "20"]
    assert Curve().lines() == []


def test_a_flat_curve_has_a_place() -> None:
    lines = Curve().take([event(1, train_loss=1.0), event(2, train_loss=1.0)]).lines(width=10, height=3)
    assert [("·" in line) for line in lines[:3]] == [False, False, True]


def test_a_picture(tmp_path: Path) -> None:
    Curve().take(falling()).draw(tmp_path / "loss.png", "a job")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(BadRequest, match="must end in"):
        Curve().take(falling()).draw(tmp_path / "loss.txt", "a job")
    with pytest.raises(BadRequest, match="no loss to draw"):
        Curve().draw(tmp_path / "none.png", "a job")


def test_what_cannot_be(cli: Cli, tmp_path: Path) -> None:
    assert cli("tune", "list").err.startswith("there are no jobs; `terascope tune create")
    (tmp_path / "lines.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    data = str(tmp_path / "lines.jsonl")
    assert "cannot be tuned" in cli("tune", "create", data, "--model", "echo").err
    assert "there is no file nothing" in cli("tune", "create", "nothing", "--model", "echo").err
    assert "write NAME=VALUE" in cli("tune", "create", data, "--model", "echo", "--set", "rank").err
    assert "rank" in cli("tune", "create", data, "--model", "echo", "--set", "rank=many").err
    assert "must end in .png or .svg" in cli("tune", "create", data, "--model", "echo", "--plot", "x.txt").err
    assert cli("tune", "create", data, "--model", "echo", "--method", "dpo").status == 2
    for command in ("show", "cancel", "events"):
        told = cli("tune", command, "ftjob_none")
        assert (told.status, re.search("no fine-tuning job 'ftjob_none'", told.err) is not None) == (1, True)

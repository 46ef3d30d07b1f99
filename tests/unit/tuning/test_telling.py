"""From a trainer's lines to rows and events: each once, whatever was told again after a restart."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from terascope.core.tuning import TuningMethod
from terascope.store.tuning import CHECKPOINT, JobRow
from terascope.tuning.telling import Reading, Told, told_since

ROW = JobRow("j", "r", "local", "u", "k", 1.0, TuningMethod.LORA, "lora", "m@1", "d", "f", "", "s", 1, {}, {})


def step(number: int) -> dict[str, Any]:
    told = {"loss": 1 / number, "lr": 0.1, "tokens": 10 * number, "norm": 1.0, "seconds": 2.0}
    return {"kind": "step", "step": number, **told}


def training(first: int, last: int, every: int = 3) -> list[Told]:
    """What a trainer tells that goes on after a checkpoint at `first`."""
    kind = "resumed" if first else "started"
    told: list[Told] = [{"kind": kind, "step": first, "steps": 9, "epochs": 1, "steps_in_epoch": 9}]
    told.append({"kind": "checkpoint", "step": first, "tokens": 0}) if first else told.append(
        {"kind": "held_out", "step": 0, "loss": 3.0, "tokens": 5}
    )
    for number in range(first + 1, last + 1):
        told.append(step(number))
        if number % every == 0:
            told.append({"kind": "held_out", "step": number, "loss": 1.0, "tokens": 5 + 5 * number // every})
            told.append({"kind": "checkpoint", "step": number, "tokens": 10 * number})
    return told


def taken(row: JobRow, lines: list[Told]) -> tuple[JobRow, Reading]:
    reading = Reading(row).take(lines)
    return replace(row, **reading.values), reading


@given(st.lists(st.integers(1, 9), max_size=4), st.integers(1, 5))
def test_each_step_measure_and_checkpoint_is_told_once(kills: list[int], cut: int) -> None:
    """The trainer is killed after some steps and goes on from the last checkpoint, again and again."""
    row, said, reached = ROW, [], 0
    for last in [*kills, 9]:
        begun = reached // 3 * 3
        if begun == 9:
            break
        lines = training(begun, max(last, begun))
        reached = max(last, begun)
        for start in range(0, len(lines), cut):
            row, reading = taken(row, lines[start : start + cut])
            said += reading.said
    steps = [one.data["step"] for one in said if one.kind == "metrics" and "train_loss" in one.data]
    measured = [one.data["step"] for one in said if "valid_loss" in one.data]
    assert steps == list(range(1, 10))
    assert measured == [0, 3, 6, 9]
    assert [one.data["step"] for one in said if one.kind == CHECKPOINT] == [3, 6, 9]
    assert (row.step, row.tokens, row.saved, row.measured, row.held_out_loss) == (9, 90, 9, 20, 1.0)


def test_a_checkpoint_that_was_not_told_of_is_told_when_it_is_gone_on_from() -> None:
    row, _ = taken(ROW, training(0, 3)[:-1])
    assert row.saved == 0
    row, reading = taken(row, training(3, 4))
    assert row.saved == 3
    assert [one.message for one in reading.said][:2] == [
        "Training goes on after step 3; 9 steps in all",
        "New checkpoint after step 3",
    ]


def test_the_last_word_is_kept_and_warnings_are_told() -> None:
    reading = Reading(ROW).take([{"kind": "warning", "step": 1, "message": "no room"}, {"kind": "done", "step": 9}])
    assert [(one.level, one.message) for one in reading.said] == [("warn", "no room")]
    assert reading.ended == {"kind": "done", "step": 9}
    assert Reading(ROW).take([{"kind": "something new"}]).said == []


def test_only_whole_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    assert told_since(path, 0) == ([], 0)
    whole = json.dumps({"kind": "done"}) + "\n"
    path.write_text(whole + '{"kind": "st')
    assert told_since(path, 0) == ([{"kind": "done"}], len(whole))
    assert told_since(path, len(whole)) == ([], len(whole))

"""Predictions for published measurements, and the trillion-parameter rows among them."""

import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from terascope.planner.constants import constants
from terascope.planner.validation import check, predict, published_rows

ROWS = {row["id"]: row for row in published_rows()}


def test_every_row_is_predicted_and_has_a_source() -> None:
    checked, left = check(published_rows())
    assert left == ()
    assert len(checked) == len(ROWS)
    assert all(one.row["source"] for one in checked)


def test_errors_stay_what_they_are() -> None:
    """A change of the model that makes predictions worse must be seen; docs/reference/planner-validation.md has all."""
    checked, _ = check(published_rows())
    assert statistics.median(abs(one.error) for one in checked) <= 0.17


@pytest.mark.parametrize("name", ["kimi-k2-h200-prefill", "kimi-k3-gb300-tp16-bs1", "sgl-h100-decode-ep72"])
def test_trillion_parameter_and_wide_rows_are_near(name: str) -> None:
    ((one,), _) = check([ROWS[name]])
    assert abs(one.error) < 0.25


def test_what_is_balanced_is_predicted_as_balanced() -> None:
    uneven = replace(constants(), imbalance_prompt=2.0)
    same, other = ROWS["sgl-h100-prefill-4096"], ROWS["sgl-h100-prefill-4096-perfectEPLB"]
    assert predict(same, uneven) < predict(same, constants())
    assert predict(other, uneven) == predict(other, constants())


def test_accepted_drafts_count() -> None:
    row = ROWS["ant-h20-decode-ep16-b48"]
    without = dict(row) | {"note": ""}
    assert predict(row, constants()) > predict(without, constants())


def test_a_row_that_does_not_say_its_layout_is_left(tmp_path: Path) -> None:
    row = ROWS["qwen35-gb200-pd-25k"]
    header = ",".join(row)
    values = ",".join(f'"{value}"' for value in (dict(row) | {"note": "many prefill, some decode"}).values())
    file = tmp_path / "rows.csv"
    file.write_text(f"{header}\n{values}\n")
    checked, left = check(published_rows(file))
    assert checked == ()
    assert left == ("qwen35-gb200-pd-25k: does not say how many GPUs compute prompts and how many answers",)

"""CSV comes back as it went out, but for what a spreadsheet would run."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.protocol.spreadsheet import csv_text

STARTS = ("=", "+", "-", "@", "\t", "\r")
CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


@given(st.lists(st.tuples(CELLS, CELLS), max_size=4), st.sampled_from(["\n", "\r\n"]))
def test_what_is_read_is_what_was_written(rows: list[tuple[str, str]], line_end: str) -> None:
    text = csv_text(("a", "b"), rows, line_end=line_end)
    [head, *read] = csv.reader(io.StringIO(text, newline=""))
    assert head == ["a", "b"]
    assert [[f"'{cell}" if cell.startswith(STARTS) else cell for cell in row] for row in rows] == read
    assert not any(cell.startswith(STARTS) for row in read for cell in row)


@pytest.mark.parametrize(("value", "shown"), [(-1.5, "-1.5"), ("-1", "'-1"), (None, ""), ('=1+"x"', '"\'=1+""x"""')])
def test_numbers_stay_numbers(value: object, shown: str) -> None:
    assert csv_text(("a", "b"), [(value, 1)]) == f"a,b\r\n{shown},1\r\n"

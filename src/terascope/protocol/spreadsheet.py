"""CSV that spreadsheets open: RFC 4180, and no text in it that they would take for a formula."""

import csv
import io
from collections.abc import Iterable

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def csv_text(columns: Iterable[str], rows: Iterable[Iterable[object]], *, line_end: str = "\r\n") -> str:
    """The names of `columns`, then `rows`."""
    return "".join(_line(row) + line_end for row in (columns, *rows))


def _line(row: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(map(_cell, row))  # with its own line end, or it would not quote a lone CR
    return text.getvalue().removesuffix("\r\n")


def _cell(value: object) -> object:
    """A text that a spreadsheet would take for a formula gets a quote in front."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value

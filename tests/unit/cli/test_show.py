"""How values look in the terminal."""

import json
import re
from collections.abc import Callable

import pytest

from terascope.cli.show import clean, details, duration, print_json, size, table, when
from terascope.protocol.admin import ModelCard

CARD = ModelCard(
    id="m", created=1, owned_by="terascope", version="1", digest="d", modes=["query"], context_length=0, state="ready"
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (5_300_000, "5.3 MB"), (2e9, "2 GB"), (1.5e12, "1.5 TB")],
)
def test_sizes(value: float, expected: str) -> None:
    assert size(value) == expected


@pytest.mark.parametrize(("value", "expected"), [(0.0004, "0 ms"), (0.25, "250 ms"), (1, "1.00 s"), (75.5, "75.50 s")])
def test_durations(value: float, expected: str) -> None:
    assert duration(value) == expected


def test_times() -> None:
    assert re.fullmatch(r"2027-01-\d\d \d\d:00:00", when(1_800_000_000 - 1_800_000_000 % 3600))
    assert when(None) == ""


def test_what_others_wrote_does_not_steer_the_terminal() -> None:
    assert (
        clean("Grüße\n\t\N{ZERO WIDTH JOINER}\N{NO-BREAK SPACE}") == "Grüße\n\t\N{ZERO WIDTH JOINER}\N{NO-BREAK SPACE}"
    )
    assert clean("\x1b[2J\r\x07\x7f\x9b") == "␛[2J␍␇��"


def test_a_table_is_as_wide_as_its_content(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 300
    table(("name", "[bold]odd"), [("a[red]b", long), ("\x1b[2J", "")], empty="nothing")
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["name     [bold]odd", f"a[red]b  {long}", "␛[2J"]


def test_an_empty_table_says_so_beside_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    table(("name",), [], empty="there is none")
    assert tuple(capsys.readouterr()) == ("", "there is none\n")


def test_details_leave_out_what_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    details([("name", "m"), ("aliases", ["a", "b"]), ("licence", ""), ("none", []), ("count", 0), ("stream", False)])
    assert capsys.readouterr().out == "name     m\naliases  a, b\ncount    0\nstream   False\n"


@pytest.mark.parametrize("value", [CARD, [CARD], [], {"a": "ü"}, [{"a": None}]])
def test_json_can_be_read_back(capsys: pytest.CaptureFixture[str], value: object) -> None:
    print_json(value)
    plain: Callable[[object], object] = lambda one: one.model_dump() if isinstance(one, ModelCard) else one  # noqa: E731
    expected = [plain(one) for one in value] if isinstance(value, list) else plain(value)
    assert json.loads(capsys.readouterr().out) == expected

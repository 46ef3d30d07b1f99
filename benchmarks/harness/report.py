"""Figures: rounds, medians, tables, targets, and the last line."""

import json
import os
import platform
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeVar

T = TypeVar("T")
Figures = Mapping[str, float]


@dataclass(frozen=True)
class Target:
    """What a figure is to reach."""

    key: str
    sense: Literal["<", "<=", ">=", "="]
    value: float

    def reached(self, result: Mapping[str, float | None]) -> bool:
        """Whether the figure in `result` is good enough; one that was not taken is not."""
        figure = result.get(self.key)
        if figure is None:
            return False
        return {
            "<": figure < self.value,
            "<=": figure <= self.value,
            ">=": figure >= self.value,
            "=": figure == self.value,
        }[self.sense]


def interleaved(rounds: int, items: Sequence[T]) -> Iterator[tuple[int, T]]:
    """Each of `items` once a round, each round beginning with another, so that none always runs after the same one."""
    for number in range(rounds):
        at = number % len(items) if items else 0
        for item in (*items[at:], *items[:at]):
            yield number, item


def medians(rounds: Sequence[Figures]) -> dict[str, float]:
    """The median of each figure over the rounds that have it."""
    keys = dict.fromkeys(key for one in rounds for key in one)
    return {key: statistics.median(one[key] for one in rounds if key in one) for key in keys}


def ratio(over: float | None, under: float | None) -> float | None:
    """`over / under`, or None where either was not measured."""
    return over / under if over is not None and under else None


def difference(high: float | None, low: float | None) -> float | None:
    """`high - low`, or None where either was not measured."""
    return high - low if high is not None and low is not None else None


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table, aligned so that a terminal shows it well too; None is a dash."""
    cells = [[str(one) for one in head], *([_cell(one) for one in row] for row in rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(head))]
    cells.insert(1, ["-" * width for width in widths])
    return "\n".join(_line(row, widths) for row in cells)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(one.ljust(width) for one, width in zip(row, widths, strict=True)) + " |"


def _cell(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return _number(value)
        case _:
            return str(value)


def _number(value: float) -> str:
    """Three significant digits at least, and no decimals that mean nothing."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"


def machine() -> str:
    """The machine in one line: day, cores, memory, processor, system, and how busy it was before."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores, {memory:.0f} GiB, {_processor()}, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}, "
        f"load before {os.getloadavg()[0]:.2f}"
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def finish(name: str, result: Mapping[str, float | None], targets: Sequence[Target], detail: object) -> None:
    """Print what was to be reached, then `result` and `detail` as one JSON object on the last line."""
    rows = [(one.key, result.get(one.key), f"{one.sense} {one.value:g}", one.reached(result)) for one in targets]
    print(f"\n{table(['figure', 'measured', 'target', 'reached'], rows)}\n")
    print(json_line(name, result, detail), flush=True)


def json_line(name: str, result: Mapping[str, float | None], detail: object) -> str:
    """The benchmark's last line: its keys, and beside them all other figures in `detail`."""
    return json.dumps(
        {"benchmark": name, **{key: _rounded(one) for key, one in result.items()}, "detail": _rounded(detail)}
    )


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {key: _rounded(one) for key, one in value.items()}
    return value

"""How values look in the terminal, and as JSON."""

import json
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

_VISIBLE = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
_VISIBLE |= dict.fromkeys(range(127, 160), ord("\N{REPLACEMENT CHARACTER}"))
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def print_json(value: BaseModel | Sequence[BaseModel] | object) -> None:
    """Print `value` as JSON."""
    print(json.dumps(_plain(value), indent=2, ensure_ascii=False))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """Print rows under their columns, or the sentence `empty` (on stderr) when there is none."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        shown.add_column(name, overflow="fold")
    for row in rows:
        shown.add_row(*map(clean, row))
    if not shown.row_count:
        print(empty, file=sys.stderr)
        return
    with (console := _console()).capture() as drawn:
        console.print(shown)
    print("\n".join(line.rstrip() for line in drawn.get().splitlines()))


def details(pairs: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one pair a line; a pair without a value is left out."""
    shown = [(name, ", ".join(value) if isinstance(value, list) else value) for name, value in pairs]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        if value not in ("", None, ()):
            print(f"{name:{width}}  {clean(str(value))}")


def clean(text: str) -> str:
    """`text` with every control character but line ends made visible: what others wrote must not steer the terminal."""
    return text.translate(_VISIBLE)


def when(seconds: float | None) -> str:
    """A time since the epoch as local date and time; empty for None."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds is not None else ""


def size(count: float) -> str:
    """A number of bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def duration(seconds: float) -> str:
    """A time span: milliseconds below a second."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _console() -> Console:
    """The terminal; where the output goes to a file or a program, lines are as long as they are."""
    return Console(width=None if sys.stdout.isatty() else 10_000, markup=False, highlight=False, emoji=False)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value

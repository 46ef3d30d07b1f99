"""From the lines that a trainer tells to what the job's row and its events say."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from terascope.store.tuning import CHECKPOINT, JobRow, Said

_AT_ONCE = 1 << 20  # bytes that are read together
Told = Mapping[str, Any]


def told_since(path: Path, start: int) -> tuple[list[Told], int]:
    """Return what was told from byte `start` on, and up to where that is; lines that are not whole yet are left."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(_AT_ONCE)
    except FileNotFoundError:
        return [], start
    whole = data[: data.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines()], start + len(whole)


@dataclass(slots=True)
class Reading:
    """What becomes of a row by what its trainer told. What was told before, as after a restart, is not told again."""

    row: JobRow
    values: dict[str, Any] = field(default_factory=dict)
    said: list[Said] = field(default_factory=list)
    ended: Told | None = None
    """The trainer's last word, when it was `done` or `error`."""

    def take(self, lines: Sequence[Told]) -> "Reading":
        """Take what was told, in its order."""
        for line in lines:
            if taker := _TAKERS.get(str(line.get("kind"))):
                taker(self, line)
        return self

    def now(self, name: str) -> Any:
        """The value of a column, as it is by now."""
        return self.values.get(name, getattr(self.row, name))

    def place(self, step: int) -> str:
        """How far a step is, in words."""
        return f"Step {step}/{self.now('steps')}"


def _began(reading: Reading, line: Told) -> None:
    reading.values["steps"] = line["steps"]
    words = f"Training goes on after step {line['step']}" if line["step"] else "Training began"
    reading.said.append(Said(f"{words}; {line['steps']} steps in all"))


def _stepped(reading: Reading, line: Told) -> None:
    step = line["step"]
    if step <= reading.now("step"):
        return
    reading.values |= {"step": step, "loss": line["loss"], "tokens": line["tokens"], "step_s": line["seconds"]}
    data = {
        "step": step, "total_steps": reading.now("steps"), "train_loss": line["loss"], "learning_rate": line["lr"],
        "trained_tokens": line["tokens"],
    }  # fmt: skip
    reading.said.append(Said(f"{reading.place(step)}: training loss={line['loss']:.4f}", kind="metrics", data=data))


def _measured(reading: Reading, line: Told) -> None:
    if line["tokens"] <= reading.now("measured"):
        return
    reading.values |= {"measured": line["tokens"], "held_out_loss": line["loss"]}
    data = {"step": line["step"], "total_steps": reading.now("steps"), "valid_loss": line["loss"]}
    words = f"{reading.place(line['step'])}: validation loss={line['loss']:.4f}"
    reading.said.append(Said(words, kind="metrics", data=data))


def _saved(reading: Reading, line: Told) -> None:
    step = line["step"]
    if step <= reading.now("saved"):
        return
    reading.values["saved"] = step
    data = {"step": step, "train_loss": reading.now("loss"), "full_valid_loss": reading.now("held_out_loss")}
    reading.said.append(Said(f"New checkpoint after step {step}", kind=CHECKPOINT, data=data))


def _warned(reading: Reading, line: Told) -> None:
    reading.said.append(Said(str(line["message"]), level="warn"))


def _over(reading: Reading, line: Told) -> None:
    reading.ended = line


_TAKERS = {
    "started": _began,
    "resumed": _began,
    "step": _stepped,
    "held_out": _measured,
    "checkpoint": _saved,
    "warning": _warned,
    "done": _over,
    "error": _over,
}

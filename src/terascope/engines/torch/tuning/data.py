"""A training file as examples: checked line by line, then read again by place; only the places are in memory."""

import hashlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

import torch

from terascope.core.errors import BadRequest
from terascope.core.tuning import TuningMethod
from terascope.engines.torch.tuning.examples import Example, ExampleReader
from terascope.engines.torch.tuning.lines import at_line, raw_lines, read_line

_REPORTED = 10_000  # lines between two reports


class Lines:
    """The examples of one file. `digest` is the sha256 of its bytes, `tokens` are those of all lines together."""

    def __init__(self, path: Path, name: str, method: TuningMethod, reader: ExampleReader) -> None:
        self._file = path.open("rb")
        self._name, self._method, self._reader = name, method, reader
        self._starts = array("Q")
        self._numbers = array("L")
        self.digest = ""
        self.tokens = 0

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._starts)

    def check(self, report: Callable[[int], None]) -> None:
        """Read every line once; `report` is told the number of lines now and then.

        Raises `BadRequest` that names the first line that is wrong, or says that there is none.
        """
        self._file.seek(0)
        self.digest = hashlib.file_digest(self._file, "sha256").hexdigest()
        self._file.seek(0)
        for raw in raw_lines(self._file, self._name):
            self.tokens += len(self._example(raw.text, raw.number))
            self._starts.append(raw.start)
            self._numbers.append(raw.number)
            if raw.number % _REPORTED == 0:
                report(raw.number)
        if not len(self):
            raise BadRequest(f"{self._name} has no lines", param=self._name)

    def __getitem__(self, index: int) -> Example:
        self._file.seek(self._starts[index])
        return self._example(self._file.readline(), self._numbers[index])

    def _example(self, text: bytes, number: int) -> Example:
        try:
            return self._reader.read(read_line(text, self._method))
        except BadRequest as error:
            raise at_line(number, error, self._name) from None


class Order:
    """Which lines are trained on, and in which order: a function of the seed alone."""

    def __init__(self, lines: int, held_out_share: float, batch_size: int, seed: int) -> None:
        """Raises `BadRequest` when nothing is left to train on."""
        mixed = _drawn(lines, seed, "held out")
        held = min(lines - 1, max(1, round(lines * held_out_share))) if held_out_share else 0
        self.held_out = sorted(mixed[:held])
        self._trained = mixed[held:]
        self._batch_size, self._seed = batch_size, seed
        self._epoch: tuple[int, Sequence[int]] = (-1, ())
        if not self._trained:
            raise BadRequest("training_file has no line to train on", param="training_file")

    @property
    def steps(self) -> int:
        """How many steps an epoch has."""
        return -(-len(self._trained) // self._batch_size)

    def batch(self, step: int) -> list[int]:
        """Return the lines of a step; steps count from 0 through all epochs."""
        epoch, place = divmod(step, self.steps)
        if self._epoch[0] != epoch:
            self._epoch = epoch, _drawn(len(self._trained), self._seed, f"epoch {epoch}")
        chosen = self._epoch[1][place * self._batch_size : (place + 1) * self._batch_size]
        return [self._trained[one] for one in chosen]


def mixed_seed(seed: int, what: str) -> int:
    """A seed for one purpose, so that no two purposes have the same random numbers."""
    return int.from_bytes(hashlib.sha256(f"{seed} {what}".encode()).digest()[:8]) >> 1


def batches(lines: Lines, chosen: Sequence[int], most: int) -> Iterator[list[Example]]:
    """Yield the examples `chosen` in parts that have at most `most` tokens once filled up; one row is always taken."""
    part: list[Example] = []
    longest = 0
    for example in sorted((lines[index] for index in chosen), key=len):
        longest = max(longest, len(example))
        if part and longest * (len(part) + 1) > most:
            yield part
            part, longest = [], len(example)
        part.append(example)
    if part:
        yield part


def _drawn(count: int, seed: int, what: str) -> list[int]:
    generator = torch.Generator().manual_seed(mixed_seed(seed, what))
    found: list[int] = torch.randperm(count, generator=generator).tolist()
    return found

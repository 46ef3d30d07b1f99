"""What of a dataset is there for good: read at the start, replaced as a whole after each part that was written.

What was written after it does not count: it is cut off, and the prompts after those that count are asked again. It
stands beside the dataset, in `OUTPUT.capture`: readers of Zarr and Parquet want nothing in theirs that is not of their
format.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from terascope.client.capture.block import Column, column_of
from terascope.client.capture.settings import Settings
from terascope.core.errors import Conflict

NAME = "manifest.json"
FORMAT = 1


@dataclass(slots=True)
class Manifest:
    """`prompts` of the file, up to byte `read` and line `line`, gave `rows` in `parts`; `failed` of them gave none.

    `model` is the version that all of it is of; `sha256` is of the bytes that were read; `listed` is how many bytes of
    the list of prompts count.
    """

    settings: dict[str, Any]
    kind: str
    model: str = ""
    prompts: int = 0
    failed: int = 0
    rows: int = 0
    bytes: int = 0
    parts: int = 0
    line: int = 0
    read: int = 0
    sha256: str = ""
    listed: int = 0
    whole: bool = False
    columns: dict[str, Column] = field(default_factory=dict)

    def save(self, directory: Path) -> None:
        """Replace the manifest of the dataset in `directory`; on return it is on the disk."""
        told = asdict(self) | {"format": FORMAT}
        replace_file(beside(directory) / NAME, orjson.dumps(told, option=orjson.OPT_INDENT_2))

    @classmethod
    def load(cls, directory: Path, settings: Settings, kind: str) -> "Manifest":
        """The manifest of the dataset in `directory`, or a new one when there is nothing yet.

        Raises `Conflict` when there is something else, or a dataset with other settings.
        """
        try:
            found = orjson.loads((beside(directory) / NAME).read_bytes())
        except FileNotFoundError:
            return cls(settings.told(), kind)
        except orjson.JSONDecodeError as error:
            raise Conflict(f"{beside(directory) / NAME} is damaged ({error}); begin anew with another -o") from None
        if found.pop("format", None) != FORMAT:
            raise Conflict(f"{directory} was written by another Terascope; continue it with that one")
        columns = {name: column_of(one) for name, one in found.pop("columns").items()}
        manifest = cls(**found, columns=columns)
        manifest._check(directory, settings)
        return manifest

    def _check(self, directory: Path, settings: Settings) -> None:
        asked = orjson.loads(orjson.dumps(settings.told()))
        for name, value in asked.items():
            if (begun := self.settings.get(name)) != value:
                told = f"{directory} was begun with {name} {begun!r}, not {value!r}"
                raise Conflict(f"{told}; give it the same, or write to another -o")


def beside(directory: Path) -> Path:
    """Where what belongs to a dataset is kept that is no part of it."""
    return directory.with_name(f"{directory.name}.capture")


def replace_file(path: Path, data: bytes) -> None:
    """Write a file beside and rename it: at `path` is the old one or the new one, whole and on the disk."""
    new = path.with_name(f".{path.name}.new")
    with new.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Another path to write to; what is there is renamed to `path` when the block ends without a raise."""
    new = path.with_name(f".{path.name}.new")
    try:
        yield new
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def cut_parts(directory: Path, pattern: str, count: int) -> None:
    """Remove the parts after the first `count`, by name, and what is half-written."""
    for path in (*sorted(directory.glob(pattern))[count:], *directory.glob(f".{pattern}.new")):
        path.unlink()


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """The dataset's directory, made if need be, for this process alone.

    Raises `Conflict` when another one writes it, when it cannot be made, or when something else is in it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()) and not (beside(directory) / NAME).exists():
            raise Conflict(f"{directory} has something else in it; write to another -o")
        beside(directory).mkdir(exist_ok=True)
        lock = (beside(directory) / "lock").open("a")
    except OSError as error:
        raise Conflict(f"cannot write {directory}: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"another capture is writing {directory}; wait for it, or write to another -o") from None
        yield

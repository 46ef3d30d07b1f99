"""The contract of what keeps the content of files. `terascope.testing.shelves` has its conformance suite."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Seen:
    """Something on a shelf: its name, when it changed last (seconds since the epoch), whether it is half-written."""

    name: str
    modified: float
    partial: bool = False


class Sink(Protocol):
    """Takes the content of one blob. One thread at a time; `commit` or `discard` ends it."""

    def write(self, data: bytes) -> None:
        """Append `data`. Raises `OSError`, and then it is to be discarded."""
        ...

    def commit(self) -> None:
        """Make the blob visible as a whole; where there is a disk, it is on the disk on return. Raises `OSError`."""
        ...

    def discard(self) -> None:
        """Leave nothing of what was written. Idempotent; after `commit` it removes the blob."""
        ...


class Shelf(Protocol):
    """Keeps blobs by name. It waits for disks and networks: call it in threads, from several at once.

    A blob is there as a whole or not at all, and never changes. Names are lower-case letters, digits and `_`. What
    goes wrong raises `OSError`, or whatever error the file system behind it has.
    """

    def create(self, name: str) -> Sink:
        """Begin a blob, which nobody sees until it is committed; one that is there already is replaced then."""
        ...

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to before `stop`, fewer where the blob ends. Raises `FileNotFoundError`."""
        ...

    def size(self, name: str) -> int | None:
        """Return how many bytes the blob has; None when there is none."""
        ...

    def delete(self, name: str, *, partial: bool = False) -> None:
        """Remove the blob, or with `partial` what is half-written of it; nothing happens when there is none."""
        ...

    def scan(self) -> Iterator[Seen]:
        """Yield all that is there, half-written blobs too."""
        ...

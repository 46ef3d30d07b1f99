"""The contract of what keeps passages. `terascope.testing.collections` has its conformance suite."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

Value = str | float | bool
Attributes = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a file: its `index`-th, the characters from `start` to before `end` of its text.

    `digest` is the beginning of the sha256 of `text` in hex. All passages of a file have its name and attributes.
    """

    file_id: str
    index: int
    start: int
    end: int
    text: str
    digest: str
    filename: str
    attributes: Attributes = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Placed:
    """A passage and its vector: little-endian float32."""

    passage: Passage
    vector: bytes


@dataclass(frozen=True, slots=True)
class Found:
    """A passage and how near it is to the query: the cosine of the angle between their vectors."""

    passage: Passage
    score: float


class Collection(Protocol):
    """The passages of one vector store, in all versions that are kept. It waits for disks: call it in threads.

    Versions are whole numbers that the caller counts up: a change is made for a version that does not exist yet, and
    nobody sees it who asks for an earlier one. One change at a time; searches may run beside it. What goes wrong
    raises `OSError` or `RuntimeError`; then, and after a crash, some of a change may be there: `undo` removes it.
    """

    def put(self, placed: Sequence[Placed], version: int) -> None:
        """Add passages from `version` on, all of them or none; those that their files have had end with it."""
        ...

    def remove(self, file_ids: Sequence[str], version: int) -> None:
        """From `version` on these files have no passages; idempotent, and nothing happens for one that has none."""
        ...

    def set_attributes(self, file_id: str, attributes: Attributes, version: int) -> None:
        """From `version` on a file has these attributes and no others; nothing happens for one that has no passages."""
        ...

    def undo(self, after: int) -> None:
        """Take back every change that was made for a version beyond `after`. Idempotent."""
        ...

    def search(self, vector: bytes, version: int, limit: int, among: Sequence[str] | None = None) -> list[Found]:
        """Return the nearest passages of that version, the nearest first, at most `limit`; only of files `among`.

        Exact: every passage is compared. Equal scores are ordered by file and place.
        """
        ...

    def passages(self, file_id: str, version: int, start: int, limit: int) -> list[Passage]:
        """Return up to `limit` passages of a file in that version, from its `start`-th on, in order."""
        ...

    def attributes(self, version: int) -> dict[str, Attributes]:
        """Return the attributes of each file in that version."""
        ...

    def purge(self, before: int) -> None:
        """Forget what only versions below `before` have; tidy up. What was forgotten is on the disk no more some time
        after, when it is called again."""
        ...


class Collections(Protocol):
    """All collections there are, by name: lower-case letters, digits and `_`."""

    def open(self, name: str, width: int) -> Collection:
        """Return a collection for vectors of so many numbers, made when there is none.

        Raises `Conflict` when there is one of another width.
        """
        ...

    def drop(self, name: str) -> None:
        """Remove a collection with all its versions; nothing happens when there is none."""
        ...

    def names(self) -> list[str]:
        """Return the names of all collections."""
        ...

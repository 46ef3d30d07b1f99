"""The contract of a source: where a model's files come from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

Progress = Callable[[str, float | None], None]
"""Called with what is being done, and how much of it is done (0 to 1) where that is known."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A model's files on this machine.

    `source` names exactly what was fetched (a commit where a branch was asked for). `licence` is what the source
    says about it, for models whose own files say nothing. `expected` are the sha256 of the files as the source
    promised them, by path below `directory`; empty when it promises nothing.
    """

    source: str
    directory: Path
    licence: str = ""
    expected: Mapping[str, str] = field(default_factory=dict)


class Source(Protocol):
    """One place a model can come from, as the operator wrote it."""

    @property
    def text(self) -> str:
        """The source in its ordinary spelling, `kind:rest`."""
        ...

    @property
    def pinned(self) -> bool:
        """True when `text` always means the same bytes."""
        ...

    async def fetch(self, progress: Progress) -> Fetched:
        """Bring the files to this machine, or find them there already.

        Raises `BadRequest` when there is no such thing and `SourceUnavailable` when it cannot be had just now.
        On any raise and on cancellation nothing half is left where a later fetch would take it for whole.
        """
        ...

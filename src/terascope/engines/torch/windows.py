"""Inputs for embeddings as they are computed: whole, cut, or in windows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from terascope.engines.torch.vocabulary import Vocabulary


class Truncate(StrEnum):
    """What happens to an input that is too long."""

    ERROR = "error"
    START = "start"
    END = "end"


@dataclass(frozen=True, slots=True)
class Windows:
    """How inputs are divided: `size` tokens each, of which the first `overlap` are the last of the window before."""

    size: int
    overlap: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """What is computed at once of an input: `tokens`, those from `start` to before `end` of its own among them.

    Of its vectors the first `front` and the last `back` are not given where each token has one: they are those of
    tokens that another piece has, or that only stand around this one.
    """

    tokens: Sequence[int]
    start: int
    end: int
    front: int = 0
    back: int = 0


@dataclass(frozen=True, slots=True)
class Around:
    """The tokens that a tokenizer puts before and after every text."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> "Around":
        """Return what `vocabulary` puts around a text; nothing where it changes texts otherwise."""
        bare, whole = vocabulary.encode("a", special=False), vocabulary.encode("a", special=True)
        for at in range(len(whole) - len(bare) + 1):
            if whole[at : at + len(bare)] == bare:
                return cls(tuple(whole[:at]), tuple(whole[at + len(bare) :]))
        return cls()

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.before) + len(self.after)

    def inside(self, tokens: Sequence[int]) -> Sequence[int]:
        """Return `tokens`, those of a text, without them."""
        return tokens[len(self.before) : len(tokens) - len(self.after)]


def cut(tokens: Sequence[int], around: Around, size: int, side: Truncate) -> Piece:
    """Return the first or the last of a text's `tokens`, `size` with those around them, which stay."""
    room = size - around.count
    start = max(0, len(tokens) - room) if side is Truncate.START else 0
    own = tokens[start : start + room]
    return Piece([*around.before, *own, *around.after], start, start + len(own))


def divide(tokens: Sequence[int], around: Around, windows: Windows) -> Iterator[Piece]:
    """Yield a text's `tokens` in windows, each with those around it; a window has more tokens than it shares."""
    room = windows.size - around.count
    start = 0
    while True:
        own = tokens[start : start + room]
        first, last = start == 0, start + room >= len(tokens)
        yield Piece(
            [*around.before, *own, *around.after],
            start,
            start + len(own),
            0 if first else len(around.before) + windows.overlap,
            0 if last else len(around.after),
        )
        if last:
            return
        start += room - windows.overlap

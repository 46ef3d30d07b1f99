"""Prompts made of text, tokens and vectors, in their order."""

import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from terascope.core.errors import BadRequest
from terascope.engines.torch.attachment import VECTOR, Insert

_MARK_DIGITS = 40  # of a number that nobody can guess


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a row begins with: `tokens`, `VECTOR` where one of `inserts` stands; `text` is what of it can be read."""

    tokens: Sequence[int]
    inserts: tuple[Insert, ...] = ()
    text: str = ""

    @property
    def vectors(self) -> int:
        """How many of the tokens are vectors."""
        return sum(len(insert.vectors) for insert in self.inserts)


def joined(pieces: Iterable[Sequence[int] | Tensor], text: str = "") -> Prompt:
    """Return the prompt of `pieces`, tokens and vectors [n, width] in their order."""
    tokens: list[int] = []
    inserts: list[Insert] = []
    for piece in pieces:
        if isinstance(piece, Tensor):
            inserts.append(Insert(len(tokens), piece))
            tokens += [VECTOR] * len(piece)
        else:
            tokens += piece
    return Prompt(tokens, tuple(inserts), text)


@dataclass(slots=True)
class Slots:
    """Places of vectors in a text that a chat template writes.

    Each is marked by a number of its own that was drawn for this request, so no text that was sent can mean a place.
    """

    embeds: dict[str, str] = field(default_factory=dict)

    def mark(self, embeds: str) -> str:
        """Return the text that stands for the vectors `embeds`, as they were sent."""
        mark = f"{secrets.randbelow(10**_MARK_DIGITS):0{_MARK_DIGITS}d}"
        self.embeds[mark] = embeds
        return mark

    def split(self, text: str) -> list[tuple[str, str]]:
        """Return the stretches of `text`, each followed by vectors as they were sent, by none at the end.

        Raises `BadRequest` unless every place is there exactly once: a template may leave out or cut what it is given.
        """
        if any(text.count(mark) != 1 for mark in self.embeds):
            raise BadRequest(
                "the model's chat template does not write every part of a message once, as vectors need it; use "
                "/v1/completions",
                param="messages",
            )
        found = re.split(f"({'|'.join(self.embeds)})", text) if self.embeds else [text]
        return [
            (words, self.embeds[mark] if mark else "")
            for words, mark in zip(found[::2], [*found[1::2], ""], strict=True)
        ]

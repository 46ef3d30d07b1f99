"""Cutting a text into passages by tokens: OpenAI's static strategy. All of it is pure."""

import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from terascope.core.errors import BadRequest

LEAST_TOKENS, MOST_TOKENS = 100, 4096
AUTO_TOKENS, AUTO_OVERLAP = 800, 400
"""OpenAI's numbers."""
SPARE_TOKENS = 16
"""What an embedding model's context has to have beyond a passage: special tokens, and a word cut in two."""
BYTES_A_TOKEN = 3
"""Where the engine does not say where its tokens are, so many bytes of UTF-8 stand for one."""
_SECTION = 1 << 17  # characters that are tokenized at once
_PSEUDO = re.compile(f"[\\x00-\\x7f]{{1,{BYTES_A_TOKEN}}}|[^\\x00-\\x7f]")


@dataclass(frozen=True, slots=True)
class Strategy:
    """How a file is cut: into passages of `size` tokens, two of which share `overlap`. `kind`: `auto` or `static`."""

    kind: str
    size: int
    overlap: int


@dataclass(frozen=True, slots=True)
class Span:
    """The characters from `start` to before `end`."""

    start: int
    end: int


@dataclass(slots=True)
class Tokens:
    """Where the tokens of a text are, in characters; gathered section by section, 16 bytes for each."""

    starts: "array[int]" = field(default_factory=lambda: array("q"))
    ends: "array[int]" = field(default_factory=lambda: array("q"))

    def add(self, offsets: Sequence[Sequence[int]], base: int) -> None:
        """Add tokens of a section that begins at `base`; those that stand for no character are left out."""
        for start, end in offsets:
            if end > start:
                self.starts.append(base + start)
                self.ends.append(base + end)


def auto(context_length: int) -> Strategy:
    """What `auto` means with an embedding model of that context, in tokens; 0: unknown."""
    most = max(1, context_length - SPARE_TOKENS) if context_length else AUTO_TOKENS
    size = min(AUTO_TOKENS, most)
    return Strategy("auto", size, min(AUTO_OVERLAP, size // 2))


def static(size: int, overlap: int, context_length: int) -> Strategy:
    """The strategy that was asked for. Raises `BadRequest` for sizes that are out of range, or beyond the model's."""
    where = "chunking_strategy.static"
    if not LEAST_TOKENS <= size <= MOST_TOKENS:
        raise BadRequest(
            f"`max_chunk_size_tokens` must be from {LEAST_TOKENS} to {MOST_TOKENS}, not {size}",
            param=f"{where}.max_chunk_size_tokens",
        )
    if context_length and size > context_length - SPARE_TOKENS:
        raise BadRequest(
            f"passages of {size} tokens do not fit into the {context_length} of the store's embedding model; "
            f"`max_chunk_size_tokens` may be {context_length - SPARE_TOKENS}, or choose `auto`",
            param=f"{where}.max_chunk_size_tokens",
        )
    if not 0 <= overlap <= size // 2:
        raise BadRequest(
            f"`chunk_overlap_tokens` must be from 0 to {size // 2}, half of `max_chunk_size_tokens`",
            param=f"{where}.chunk_overlap_tokens",
        )
    return Strategy("static", size, overlap)


def sections(text: str, most: int = _SECTION) -> Iterator[Span]:
    """Cut a long text where its tokens are not harmed: after a line, else after a space, else where it must be."""
    start = 0
    while len(text) - start > most:
        end = start + most
        cut = max(text.rfind("\n", start + most // 2, end), text.rfind(" ", start + most // 2, end))
        end = cut + 1 if cut >= 0 else end
        yield Span(start, end)
        start = end
    if start < len(text):
        yield Span(start, len(text))


def pseudo_tokens(text: str) -> Iterator[tuple[int, int]]:
    """Where tokens of `BYTES_A_TOKEN` bytes would be; a character beyond ASCII is one alone."""
    return (found.span() for found in _PSEUDO.finditer(text))


def passages(tokens: Tokens, strategy: Strategy) -> list[Span]:
    """Where the passages are: each has `size` tokens and begins `size - overlap` after the one before.

    The last has what is left, something new at least. Bounds are whole characters.
    """
    count, step = len(tokens.starts), strategy.size - strategy.overlap
    found: list[Span] = []
    for first in range(0, count, step):
        last = min(first + strategy.size, count) - 1
        found.append(Span(tokens.starts[first], tokens.ends[last]))
        if tokens.ends[last] == tokens.ends[-1]:  # what may be left are bytes of a character that it has
            break
    return found

"""From tokens to text: bytes of tokens, characters of bytes, and where an answer stops.

A token of a byte-level vocabulary may hold part of a character, so tokens are bytes here and become text only
when their characters are whole. What could be the beginning of a stop string is held back until that is decided.
"""

import codecs
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Mark = TypeVar("Mark")


class TokenTable:
    """The bytes of every token of a vocabulary."""

    def __init__(self, pieces: list[bytes], special: Iterable[int]) -> None:
        """`pieces[i]` are the bytes of token `i`; `special` tokens have a name but are no text."""
        self._pieces = pieces
        self._special = frozenset(special)

    def __len__(self) -> int:
        return len(self._pieces)

    def text_bytes(self, token: int) -> bytes:
        """The bytes that `token` adds to an answer; none for special tokens."""
        return b"" if token in self._special else self.name_bytes(token)

    def name_bytes(self, token: int) -> bytes:
        """The bytes of `token`, of special ones their name; none for a vector and for what is no token."""
        return self._pieces[token] if 0 <= token < len(self._pieces) else b""

    def name(self, token: int) -> str:
        """`token` as a string; one that is not whole characters as `bytes:\\xe2\\x82`, as OpenAI writes it."""
        piece = self.name_bytes(token)
        try:
            return piece.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


@dataclass(slots=True)
class TextStream(Generic[Mark]):
    """One answer's text while it is made.

    `push` adds a token, `take` returns what may be shown now, with the marks of the tokens that begin in it.
    `stopped` turns true when a stop string is complete; the text ends before it then.
    """

    stops: tuple[str, ...] = ()
    stopped: bool = False
    _decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"), init=False
    )
    _held: str = field(default="", init=False)
    _shown: int = field(default=0, init=False)
    _marks: deque[tuple[int, Mark]] = field(default_factory=deque, init=False)

    def push(self, piece: bytes, mark: Mark, *, may_stop: bool = True) -> None:
        """Add the bytes of a token. While `may_stop` is false, stop strings that end in it do not count."""
        self._marks.append((self._shown + len(self._held), mark))
        self._add(self._decoder.decode(piece), may_stop)

    def take(self) -> tuple[str, list[Mark]]:
        """Return the text that is certain, and the marks of its tokens."""
        return self._release(len(self._held) if self.stopped else len(self._held) - self._doubtful())

    def finish(self) -> tuple[str, list[Mark]]:
        """Return the rest: also what was held back, and U+FFFD for a character that never became whole."""
        if not self.stopped:
            self._add(self._decoder.decode(b"", final=True), may_stop=False)
        text, marks = self._release(len(self._held))
        if not self.stopped:
            marks += [mark for _, mark in self._marks]
        self._marks.clear()
        return text, marks

    def _add(self, text: str, may_stop: bool) -> None:
        before = len(self._held)
        self._held += text
        if not may_stop or not text:
            return
        ends = [at for stop in self.stops if (at := self._held.find(stop, max(0, before - len(stop) + 1))) >= 0]
        if ends:
            self._held = self._held[: min(ends)]
            self.stopped = True

    def _doubtful(self) -> int:
        """How many characters at the end could be the beginning of a stop string."""
        return max((beginning_at_end(self._held, stop) for stop in self.stops), default=0)

    def _release(self, count: int) -> tuple[str, list[Mark]]:
        text, self._held = self._held[:count], self._held[count:]
        self._shown += count
        marks = []
        while self._marks and self._marks[0][0] < self._shown:
            marks.append(self._marks.popleft()[1])
        return text, marks


def beginning_at_end(text: str, word: str) -> int:
    """How many characters at the end of `text` are a beginning of `word`, but not all of it."""
    for count in range(min(len(text), len(word) - 1), 0, -1):
        if word.startswith(text[-count:]):
            return count
    return 0

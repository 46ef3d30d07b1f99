"""What the echo engine makes of a text: pieces, their pseudo log-probabilities, vectors. All of it is pure.

A token of an answer is a piece: a word with the white space before it. `tokenize` spells a text out in UTF-8 bytes
instead, since ids must lead back to the text without a vocabulary.
"""

import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b, shake_256
from itertools import accumulate, cycle, islice

from terascope.core.errors import BadRequest

DIMENSIONS = 64  # of an embedding
VOCABULARY = 256  # token ids are bytes
_PIECE = re.compile(r"\s*\S+|\s+")


@dataclass(frozen=True, slots=True)
class Limits:
    """When an answer ends. Counts are of pieces; `most` is where the context ends it at the latest."""

    most: int
    least: int = 0
    endless: bool = False
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Spoken:
    """An answer: its pieces, why it ended, and how many pieces were made, the stop string's included."""

    pieces: tuple[str, ...]
    finish_reason: str
    made: int


def pieces(text: str, most: int | None = None) -> list[str]:
    """Cut `text` into pieces, which joined are `text` again; only the first `most` of them."""
    return [found[0] for found in islice(_PIECE.finditer(text), most)]


def speak(text: str, limits: Limits) -> Spoken:
    """Say `text`; over and over when the limits ask for more than it has."""
    said = pieces(text, limits.most + 1)
    wanted = limits.most if limits.endless else min(limits.least, limits.most)
    if len(said) < wanted:
        again = pieces(f" {text}") if text.strip() else [" echo"]
        said += islice(cycle(again), wanted - len(said))
    whole = len(said) <= limits.most and not limits.endless
    said = said[: limits.most]
    return _stopped(said, limits.stop) or Spoken(tuple(said), "stop" if whole else "length", len(said))


def _stopped(said: list[str], stop: tuple[str, ...]) -> Spoken | None:
    """The answer up to the stop string that is complete first, if there is one in it."""
    text = "".join(said)
    found = [(at + len(one), at) for one in stop if (at := text.find(one)) >= 0]
    if not found:
        return None
    end, start = min(found)
    ends = list(accumulate(len(piece) for piece in said))
    made = next(i for i, reached in enumerate(ends, 1) if reached >= end)
    kept = [piece[: max(0, start - (reached - len(piece)))] for piece, reached in zip(said, ends, strict=True)]
    return Spoken(tuple(piece for piece in kept if piece), "stop", made)


def logprob(piece: str, place: int) -> float:
    """A pseudo log-probability of `piece` at `place`, over 0.5, so that the piece is its place's likeliest."""
    return math.log(_share(piece, place))


def rivals(piece: str, place: int, count: int) -> list[tuple[str, float]]:
    """The `count` likeliest pieces at `place`, likeliest first, `piece` itself among them; they sum to below 1."""
    rest = 1 - _share(piece, place)
    others = [(f"{piece}{i}", math.log(rest) - i * math.log(2)) for i in range(1, count)]
    return [(piece, logprob(piece, place)), *others][:count]


def _share(piece: str, place: int) -> float:
    digest = blake2b(piece.encode(), digest_size=4, salt=place.to_bytes(8, "little"))
    return 0.5 + int.from_bytes(digest.digest()) / 2**33


def vector(text: str, dimensions: int = DIMENSIONS) -> tuple[float, ...]:
    """A vector of length 1 that only the text decides; numbers are exact in float32."""
    raw = struct.unpack(f"<{DIMENSIONS}h", shake_256(text.encode()).digest(2 * DIMENSIONS))[:dimensions]
    length = math.sqrt(sum(x * x for x in raw)) or 1.0
    return struct.unpack(f"<{dimensions}f", struct.pack(f"<{dimensions}f", *(x / length for x in raw)))


def packed(numbers: Sequence[float]) -> bytes:
    """`numbers` as little-endian float32."""
    return struct.pack(f"<{len(numbers)}f", *numbers)


def tokens(text: str) -> list[int]:
    """Spell `text` out in token ids."""
    return list(text.encode())


def offsets(text: str) -> list[tuple[int, int]]:
    """Which characters the tokens of `text` are: every byte of a character is the whole of it."""
    return [(place, place + 1) for place, one in enumerate(text) for _ in one.encode()]


def text_of(ids: Sequence[int], param: str) -> str:
    """Read token ids; bytes that are no UTF-8 become U+FFFD. Raises `BadRequest` for ids that there are not."""
    if ids and max(ids) >= VOCABULARY:
        raise BadRequest(f"{param}: token id {max(ids)} is not below {VOCABULARY}", param=param)
    return bytes(ids).decode("utf-8", "replace")

"""Which tokens and which steps of a row an operation is about."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from terascope.core.errors import BadRequest


@dataclass(frozen=True, slots=True)
class AllTokens:
    """Every token of the pass."""


@dataclass(frozen=True, slots=True)
class LastToken:
    """The last token of the pass: of the prompt, and each one of the answer."""


@dataclass(frozen=True, slots=True)
class Positions:
    """Tokens of the prompt by number, from 0, or from -1 backwards."""

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Slice:
    """Tokens of the prompt from `start` to before `stop`, as Python slices them."""

    start: int | None = None
    stop: int | None = None


@dataclass(frozen=True, slots=True)
class TokenText:
    """The tokens that have part of an occurrence of `text`, in the prompt or the answer; there may be none."""

    text: str


Tokens = AllTokens | LastToken | Positions | Slice | TokenText


@dataclass(frozen=True, slots=True)
class Steps:
    """Which passes of a row: that of its prompt (step 0), and those of the tokens of its answer (step 1 on).

    Step n computes the nth token of the answer, to choose the next. `generated` None: all of these.
    """

    prompt: bool = True
    generated: tuple[int, ...] | None = None

    def takes(self, step: int) -> bool:
        """Whether the operation acts in that step."""
        return self.prompt if step == 0 else self.generated is None or step in self.generated

    def count(self, generated: int) -> int:
        """In how many of the prompt's pass and steps 1 to `generated` it acts."""
        numbers = self.generated
        acting = generated if numbers is None else sum(1 <= number <= generated for number in numbers)
        return self.prompt + acting


PROMPT = Steps(prompt=True, generated=())
GENERATED = Steps(prompt=False)
ALL_STEPS = Steps()
TokensValue = int | list[int] | str | dict[Literal["text"], str]
"""How a request writes tokens."""


def positions(tokens: Tokens, pieces: Sequence[bytes]) -> tuple[int, ...]:
    """The numbers of the chosen tokens among `pieces`, the bytes of each token of the row, ascending but for
    `Positions`, which keep their order.

    In a step of the answer `pieces` are those of the prompt and of the answer so far, and the operation acts when the
    pass' own token is among those found (`AllTokens`, `LastToken` and `TokenText` only). Raises `BadRequest` for a
    position that the row does not have, and for two that are one token.
    """
    if isinstance(tokens, AllTokens):
        return tuple(range(len(pieces)))
    if isinstance(tokens, LastToken):
        return (len(pieces) - 1,) if pieces else ()
    if isinstance(tokens, TokenText):
        return _having(tokens.text.encode(), pieces)
    if isinstance(tokens, Slice):
        return tuple(range(len(pieces)))[tokens.start : tokens.stop]
    found = tuple(_position(number, len(pieces)) for number in tokens.numbers)
    if len(set(found)) < len(found):
        raise BadRequest(f"two positions are one token of this prompt, which has {len(pieces)}")
    return found


def most(tokens: Tokens, length: int) -> int:
    """How many tokens may be chosen at most of a prompt with up to `length` tokens."""
    if isinstance(tokens, LastToken):
        return min(1, length)
    if isinstance(tokens, Positions):
        return len(tokens.numbers)
    if isinstance(tokens, Slice):
        return _most_of(tokens, length)
    return length


def _most_of(tokens: Slice, length: int) -> int:
    """A slice whose ends count from different ends has fewer tokens in a longer prompt."""
    if tokens.start is not None and tokens.start < 0 and tokens.stop is not None and tokens.stop >= 0:
        return min(length, -tokens.start, tokens.stop)
    return len(range(length)[tokens.start : tokens.stop])


def _position(number: int, length: int) -> int:
    if not -length <= number < length:
        raise BadRequest(f"there is no token {number}; this prompt has tokens 0 to {length - 1} (or -{length} to -1)")
    return number + length if number < 0 else number


def _having(text: bytes, pieces: Sequence[bytes]) -> tuple[int, ...]:
    """The pieces that overlap an occurrence of `text` in all of them together."""
    whole = b"".join(pieces)
    touched = bytearray(len(whole))
    at = whole.find(text)
    while at >= 0:
        touched[at : at + len(text)] = b"\1" * len(text)
        at = whole.find(text, at + 1)
    found, start = [], 0
    for number, piece in enumerate(pieces):
        if any(touched[start : start + len(piece)]):
            found.append(number)
        start += len(piece)
    return tuple(found)


def parse_tokens(value: TokensValue) -> Tokens:
    """Read `"all"`, `"last"`, `3`, `[0, -1]`, `"2:5"` or `{"text": "Paris"}`. Raises `BadRequest`."""
    if isinstance(value, dict):
        return TokenText(value["text"])
    if isinstance(value, int):
        return Positions((value,))
    if isinstance(value, list):
        return Positions(tuple(value))
    if value in ("all", "last"):
        return AllTokens() if value == "all" else LastToken()
    start, colon, stop = value.partition(":")
    try:
        if colon:
            return Slice(int(start) if start else None, int(stop) if stop else None)
    except ValueError:
        pass
    raise BadRequest(
        f'`{value[:80]}` is not a choice of tokens; write "all", "last", 3, [0, -1], "2:5" or {{"text": "Paris"}}'
    )


def write_tokens(tokens: Tokens) -> TokensValue:
    """The value that `parse_tokens` reads as `tokens`."""
    if isinstance(tokens, TokenText):
        return {"text": tokens.text}
    if isinstance(tokens, Positions):
        return list(tokens.numbers)
    if isinstance(tokens, Slice):
        return f"{'' if tokens.start is None else tokens.start}:{'' if tokens.stop is None else tokens.stop}"
    return "all" if isinstance(tokens, AllTokens) else "last"


def parse_steps(value: str | int | list[int]) -> Steps:
    """Read `"prompt"`, `"generated"`, `"all"` or numbers, where 0 is the prompt. Raises `BadRequest`."""
    named = {"prompt": PROMPT, "generated": GENERATED, "all": ALL_STEPS}
    if isinstance(value, str):
        if value not in named:
            raise BadRequest(
                f'`{value[:80]}` is not a choice of steps; write "prompt", "generated", "all" or [0, 1, 2]'
            )
        return named[value]
    numbers = sorted({value} if isinstance(value, int) else set(value))
    if not numbers or numbers[0] < 0:
        raise BadRequest("steps are counted from 0, the prompt; name at least one")
    return Steps(0 in numbers, tuple(number for number in numbers if number))


def write_steps(steps: Steps) -> str | list[int]:
    """The value that `parse_steps` reads as `steps`."""
    if steps.generated is None:
        return "all" if steps.prompt else "generated"
    return ([0] if steps.prompt else []) + list(steps.generated)

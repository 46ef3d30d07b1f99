"""Which tokens of a row an operation acts on, step by step."""

from collections.abc import Sequence

import torch
from torch import Tensor

from terascope.internals.plan import Where
from terascope.internals.tokens import AllTokens, LastToken, TokenText, positions

Index = Tensor | None
"""Places in a row's part of a step; None: all of them."""


class Chosen:
    """The tokens that `where` chooses of one row. Its prompt is step 0, the nth token of its answer step n."""

    def __init__(self, where: Where, prompt: Sequence[bytes]) -> None:
        """`prompt` has the bytes of each token. Raises `BadRequest` for positions that the prompt does not have."""
        self._where = where
        self._length = len(prompt)
        self._pieces = list(prompt)
        self.of_prompt = positions(where.tokens, prompt) if where.steps.takes(0) else ()
        """The prompt's tokens, in the order in which they were asked for."""
        self._all = self.of_prompt == tuple(range(self._length))
        self._sorted = sorted(set(self.of_prompt))
        self._of_answer = isinstance(where.tokens, AllTokens | LastToken | TokenText)
        self.reads = self._of_answer and isinstance(where.tokens, TokenText)
        """Whether the answer's text matters."""
        self._ordinal = {position: number for number, position in enumerate(self.of_prompt)}

    def within(self, start: int, end: int, pieces: Sequence[bytes] = ()) -> list[int]:
        """The chosen positions from `start` to before `end`, ascending.

        `pieces` has the bytes of the answer so far, up to `end` at least where any of these positions are its.
        """
        if self._all and end <= self._length:
            return list(range(start, end))
        found = [at for at in self._sorted if start <= at < min(end, self._length)]
        return found + [at for at in range(max(start, self._length), end) if self._acts(at, pieces)]

    def ordinals(self, found: Sequence[int]) -> list[int] | None:
        """The numbers of positions among those of the prompt; None where any is of the answer."""
        return None if any(at >= self._length for at in found) else [self._ordinal[at] for at in found]

    def _acts(self, at: int, pieces: Sequence[bytes]) -> bool:
        if not self._of_answer or not self._where.steps.takes(at - self._length + 1):
            return False
        if not isinstance(self._where.tokens, TokenText):
            return True
        return at in positions(self._where.tokens, [*self._pieces, *pieces[: at + 1 - self._length]])


def select(x: Tensor, where: Where, index: Index) -> Tensor:
    """Return the chosen tokens, heads and units of `x` [tokens, heads, units], or of one without heads."""
    found = x if index is None else x[index]
    if where.heads is not None:
        found = found[:, list(where.heads)]
    return found if where.units is None else found[..., list(where.units)]


def put(x: Tensor, where: Where, index: Index, new: Tensor) -> None:
    """Put `new` where `select` finds its like, in place."""
    if where.heads is None and where.units is None:
        x[slice(None) if index is None else index] = new
        return
    tokens = torch.arange(x.shape[0], device=x.device) if index is None else index
    axes = [tokens] if x.dim() == 2 else [tokens, _axis(where.heads, x, 1)]
    axes.append(_axis(where.units, x, x.dim() - 1))
    grid = torch.meshgrid(*axes, indexing="ij")
    x[grid] = new


def _axis(chosen: tuple[int, ...] | None, x: Tensor, axis: int) -> Tensor:
    return torch.arange(x.shape[axis], device=x.device) if chosen is None else torch.tensor(chosen, device=x.device)

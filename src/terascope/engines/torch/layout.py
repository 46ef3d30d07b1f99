"""Where the tokens of one step stand: in the batch, in their rows, in the cache."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from terascope.engines.torch import flash
from terascope.engines.torch.cache import BLOCK, blocks_for

_LENGTH_STEP = 2.0  # rows whose lengths differ by more than this factor are not computed together


@dataclass(frozen=True, slots=True)
class Span:
    """The part of a row that one step computes: `count` tokens from position `start`, kept in `blocks`."""

    start: int
    count: int
    blocks: Sequence[int]

    @property
    def end(self) -> int:
        """Position after the last token."""
        return self.start + self.count


@dataclass(slots=True)
class Single:
    """Rows that bring one token each: where those are in the batch, and what they see."""

    index: Tensor
    table: Tensor
    positions: Tensor
    masks: dict[int, Tensor] = field(default_factory=dict)

    def mask(self, window: int) -> Tensor:
        """[rows, keys], float32: 0 where a row may look, else minus infinity; `window` 0 means everywhere before."""
        if window not in self.masks:
            keys = torch.arange(self.table.shape[1] * BLOCK, device=self.table.device)
            self.masks[window] = _mask(self.positions[:, None], keys, window, torch.float32)
        return self.masks[window]


@dataclass(slots=True)
class Several:
    """A row that brings several tokens, at `first` to `last` of the batch; `table` [1, blocks] if it has had some."""

    first: int
    last: int
    start: int
    table: Tensor | None
    masks: dict[int, Tensor | None] = field(default_factory=dict)

    def mask(self, window: int, like: Tensor) -> Tensor | None:
        """[tokens, keys] as above; none where the plain causal mask will do."""
        if window not in self.masks:
            end = self.start + self.last - self.first
            plain = self.start == 0 and (not window or end <= window)
            queries, keys = torch.arange(self.start, end, device=like.device), torch.arange(end, device=like.device)
            self.masks[window] = None if plain else _mask(queries[:, None], keys, window, like.dtype)
        return self.masks[window]


@dataclass(slots=True)
class Layout:
    """Where tokens stand: their `positions` in their rows and their `places` in the cache, both [tokens].

    The last `padding` of them belong to nobody. `whole` says that `singles` is one group, which is the whole batch.
    With `together` one kernel may compute all rows.
    """

    positions: Tensor
    places: Tensor
    singles: list[Single]
    several: list[Several] = field(default_factory=list)
    padding: int = 0
    whole: bool = False
    spans: Sequence[Span] = ()
    together: flash.Rows | None = None

    def row(self, first: int, device: torch.device) -> Several:
        """The row whose tokens of this step begin at place `first`, however many it brings."""
        at = 0
        for span in self.spans:
            if at == first:
                return Several(first, first + span.count, span.start, _table([span], device) if span.start else None)
            at += span.count
        raise KeyError(first)

    @classmethod
    def of_singles(cls, single: Single, places: Tensor) -> "Layout":
        """The layout of rows that bring one token each, all computed together."""
        return cls(single.positions, places, [single], whole=True)


def lay_out(
    spans: Sequence[Span],
    device: torch.device,
    *,
    spare: int = 0,
    padding: int = 0,
    apart: bool = False,
    together: bool = False,
) -> Layout:
    """The tokens of `spans` one after the other, then `padding` tokens that belong to nobody.

    Keys and values of the padding go to the block `spare`, which is never read. Rows with one token are computed
    together where their lengths are alike, or, `apart`, each by itself. `together`: one kernel may compute all rows.
    """
    positions = [position for span in spans for position in range(span.start, span.end)]
    places = [span.blocks[at // BLOCK] * BLOCK + at % BLOCK for span in spans for at in range(span.start, span.end)]
    several: list[Several] = []
    singles: list[tuple[int, Span]] = []
    first = 0
    for span in spans:
        if span.count == 1:
            singles.append((first, span))
        else:
            table = _table([span], device) if span.start else None
            several.append(Several(first, first + span.count, span.start, table))
        first += span.count
    groups = [[one] for one in singles] if apart else _of_like_length(singles)
    whole = not several and len(groups) == 1
    if whole:
        groups = [singles]  # in the batch's own order
    return Layout(
        torch.tensor(positions + [0] * padding, device=device),
        torch.tensor(places + [spare * BLOCK] * padding, device=device),
        [_single(group, device) for group in groups],
        several,
        padding,
        whole and not padding,
        spans,
        flash.Rows.of(spans, device) if together and not apart else None,
    )


def _single(group: Sequence[tuple[int, Span]], device: torch.device) -> Single:
    return Single(
        torch.tensor([index for index, _ in group], device=device),
        _table([span for _, span in group], device),
        torch.tensor([span.start for _, span in group], device=device),
    )


def _of_like_length(singles: list[tuple[int, Span]]) -> list[list[tuple[int, Span]]]:
    groups: list[list[tuple[int, Span]]] = []
    for index, span in sorted(singles, key=lambda one: one[1].end):
        if not groups or blocks_for(span.end) > _LENGTH_STEP * blocks_for(groups[-1][0][1].end):
            groups.append([])
        groups[-1].append((index, span))
    return groups


def _table(spans: Sequence[Span], device: torch.device) -> Tensor:
    """The blocks of each row, [rows, most blocks], filled up with block 0."""
    counts = [blocks_for(span.end) for span in spans]
    most = max(counts)
    rows = [[*span.blocks[:count], *[0] * (most - count)] for span, count in zip(spans, counts, strict=True)]
    return torch.tensor(rows, device=device)


def _mask(queries: Tensor, keys: Tensor, window: int, dtype: torch.dtype) -> Tensor:
    hidden = keys > queries
    if window:
        hidden |= keys <= queries - window
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, -math.inf)

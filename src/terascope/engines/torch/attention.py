"""Attention over a packed batch: the tokens of all rows stand in one sequence, each row sees only itself.

Registered with transformers under `NAME`; every model that lets its attention be chosen runs with it unchanged. A
row that brings one token is computed together with the others that do, a row that brings more by itself. Keys and
values live in blocks (cache.py), so rows join and leave without anything being moved.
"""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from terascope.engines.torch.cache import BLOCK, LayerStore, blocks_for

NAME = "terascope"
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
class _Single:
    """Rows that bring one token each: where those are in the batch, and what they see."""

    index: Tensor
    table: Tensor
    positions: Tensor
    masks: dict[int, Tensor] = field(default_factory=dict)

    def mask(self, window: int, like: Tensor) -> Tensor:
        """[rows, 1, 1, keys]: 0 where a row may look, else minus infinity; `window` 0 means everywhere before."""
        if window not in self.masks:
            keys = torch.arange(self.table.shape[1] * BLOCK, device=like.device)
            self.masks[window] = _mask(self.positions[:, None], keys, window, like)[:, None, None]
        return self.masks[window]


@dataclass(slots=True)
class _Several:
    """A row that brings several tokens, at `first` to `last` of the batch."""

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
            self.masks[window] = None if plain else _mask(queries[:, None], keys, window, like)
        return self.masks[window]


class Layout:
    """Where the tokens of one step stand: in the batch, in their rows, in the cache."""

    def __init__(self, spans: Sequence[Span], device: torch.device) -> None:
        positions = [position for span in spans for position in range(span.start, span.end)]
        places = [span.blocks[at // BLOCK] * BLOCK + at % BLOCK for span in spans for at in range(span.start, span.end)]
        self.positions = torch.tensor(positions, device=device)
        self.places = torch.tensor(places, device=device)
        self.several: list[_Several] = []
        singles: list[tuple[int, Span]] = []
        first = 0
        for span in spans:
            if span.count == 1:
                singles.append((first, span))
            else:
                table = _table([span], device) if span.start else None
                self.several.append(_Several(first, first + span.count, span.start, table))
            first += span.count
        self.singles = [_single(group, device) for group in _of_like_length(singles)]


class PackedAttention:
    """The attention of one model, with its KV cache. Inside `at` transformers calls it in every layer."""

    def __init__(self, blocks: int) -> None:
        self._blocks = blocks
        self._layers: dict[int, LayerStore] = {}
        self._layout: Layout | None = None
        AttentionInterface.register(NAME, _active)

    @contextmanager
    def at(self, layout: Layout) -> Iterator[None]:
        """Let this be what `NAME` means in this thread, for one step with `layout`."""
        self._layout, _here.attention = layout, self
        try:
            yield
        finally:
            self._layout, _here.attention = None, None

    def clear(self, blocks: Sequence[int]) -> None:
        """Zero `blocks` in every layer."""
        for layer in self._layers.values():
            layer.clear(blocks)

    def bytes_per_token(self) -> int:
        """What one token takes in all layers that have been used."""
        return sum(layer.bytes_per_token() for layer in self._layers.values())

    def __call__(
        self,
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        s_aux: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """Attend; `query` [1, heads, tokens, size], result [1, tokens, heads, size]."""
        layout = self._layout
        if layout is None:
            raise RuntimeError("a packed model was called outside of a step")
        layer = self._layers.setdefault(_layer_index(module), LayerStore(self._blocks))
        layer.write(layout.places, key[0].transpose(0, 1), value[0].transpose(0, 1))
        attend = _plain(scaling) if softcap is None and s_aux is None else _capped(scaling, softcap, s_aux)
        result = query.new_empty(query.shape[2], query.shape[1], value.shape[-1])
        window = sliding_window or 0
        for single in layout.singles:
            keys, values = layer.read(single.table)
            rows = query[0].transpose(0, 1)[single.index][:, :, None]
            found = attend(rows, keys.transpose(1, 2), values.transpose(1, 2), single.mask(window, query))
            result[single.index] = found[:, :, 0]
        for several in layout.several:
            part = slice(several.first, several.last)
            keys, values = _seen(layer, several, key[:, :, part], value[:, :, part])
            found = attend(query[:, :, part], keys, values, several.mask(window, query))
            result[part] = found[0].transpose(0, 1)
        return result[None], None


_here = threading.local()


def _active(*args: Any, **options: Any) -> tuple[Tensor, None]:
    """What transformers calls: it knows functions by name, the same for all models of a process."""
    attention: PackedAttention = _here.attention
    return attention(*args, **options)


Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def _plain(scaling: float | None) -> Attend:
    def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        return scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=True
        )

    return attend


def _capped(scaling: float | None, softcap: float | None, sinks: Tensor | None) -> Attend:
    """Attention written out, for models that bound their scores (Gemma 2) or let heads look nowhere (gpt-oss)."""

    def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        groups = query.shape[1] // keys.shape[1]
        keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
        scores = query @ keys.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        size = scores.shape[-1]
        if mask is None:
            mask = torch.full(scores.shape[-2:], -math.inf, dtype=scores.dtype, device=scores.device).triu(1)
        scores = scores + mask
        if sinks is not None:
            nowhere = sinks.view(1, -1, 1, 1).expand(scores.shape[0], -1, scores.shape[2], 1)
            scores = torch.cat([scores, nowhere.to(scores.dtype)], dim=-1)
        return scores.softmax(-1, dtype=torch.float32)[..., :size].to(values.dtype) @ values

    return attend


def _seen(layer: LayerStore, several: _Several, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values that the row sees; its own new ones straight from the layer when there are no others."""
    if several.table is None:
        return key, value
    keys, values = layer.read(several.table)
    end = several.start + several.last - several.first
    return keys[:, :end].transpose(1, 2), values[:, :end].transpose(1, 2)


def _single(group: Sequence[tuple[int, Span]], device: torch.device) -> _Single:
    return _Single(
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


def _mask(queries: Tensor, keys: Tensor, window: int, like: Tensor) -> Tensor:
    hidden = keys > queries
    if window:
        hidden |= keys <= queries - window
    return like.new_zeros(hidden.shape).masked_fill_(hidden, -math.inf)


def _layer_index(module: torch.nn.Module) -> int:
    index = getattr(module, "layer_idx", None)
    if not isinstance(index, int):
        raise RuntimeError(f"{type(module).__name__} does not say which layer it is")
    return index

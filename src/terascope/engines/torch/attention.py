"""Attention over a packed batch: the tokens of all rows stand in one sequence, each row sees only itself.

Registered with transformers under `NAME`; every model that lets its attention be chosen runs with it unchanged.
Rows that bring one token are computed together, a row that brings more by itself. Keys and values live in blocks
(cache.py), so rows join and leave without anything being moved.
"""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from terascope.engines.torch import flash
from terascope.engines.torch.cache import LayerStore
from terascope.engines.torch.layout import Layout, Several, Single
from terascope.engines.torch.taps import Listening, Tap
from terascope.internals.sites import Place

NAME = "terascope"
_FEW = 4  # rows up to which PyTorch's fused attention is faster on a CPU than two multiplications
_SHORT = 1024  # keys up to which it is faster on a GPU: it does not divide the keys of a row among processors


class PackedAttention:
    """The attention of one model, with its KV cache. Inside `at` transformers calls it in every layer."""

    def __init__(self, blocks: int) -> None:
        self._blocks = blocks
        self._layers: dict[int, LayerStore] = {}
        self._layout: Layout | None = None
        self._between: Callable[[float], None] | None = None
        self._taps: Listening | None = None
        self._begun = 0  # layers of this step
        self.kernel: Callable[..., Tensor] = flash.attend
        """What computes all rows at once."""
        AttentionInterface.register(NAME, _active)

    @contextmanager
    def at(
        self, layout: Layout, between: Callable[[float], None] | None = None, taps: Listening | None = None
    ) -> Iterator[None]:
        """Let this be what `NAME` means in this thread, for one step with `layout`.

        `between` is called in every layer with the part of the layers that are done, 0 to 1; it may raise. `taps` see
        and change queries, keys, values, what heads give, and the probabilities of rows that want them.
        """
        self._layout, self._between, self._taps = layout, between, taps
        self._begun = 0
        try:
            with using(self):
                yield
        finally:
            self._layout, self._between, self._taps = None, None, None

    def clear(self, blocks: list[int]) -> None:
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
        if self._between is not None:
            self._between(self._begun / max(len(self._layers), self._begun, 1))
            self._begun += 1
        number = layer_index(module)
        layer = self._layers.setdefault(number, LayerStore(self._blocks))
        attend = Attend(query.shape[-1] ** -0.5 if scaling is None else scaling, softcap, s_aux)
        window = sliding_window or 0
        if self._taps is None:
            layer.write(layout.places, key[0], value[0])
            return self._rows(layer, attend, window, layout, query, key, value)[None], None
        query, key, value = tapped(self._taps, number, query, key, value)
        layer.write(layout.places, key[0], value[0])
        result = self._rows(layer, attend, window, layout, query, key, value)
        for one in self._taps.rows(Place.ATTENTION_PROBABILITIES, number):
            row = layout.row(one.first, query.device)
            keys, values = _seen(layer, row, *(x[:, :, one.first : one.last] for x in (key, value)))
            part = query[:, :, one.first : one.last]
            found = attend.alone(part, keys, values, row.mask(window, query), one.tap)
            result[one.first : one.last] = found[0].transpose(0, 1)
        return self._taps.through(Place.ATTENTION_HEADS, number, result)[None], None

    def _rows(
        self,
        layer: LayerStore,
        attend: "Attend",
        window: int,
        layout: Layout,
        query: Tensor,
        key: Tensor,
        value: Tensor,
    ) -> Tensor:
        """What the heads of all rows give, [tokens, heads, size]."""
        if layout.together is not None and attend.plain and flash.takes(query, value):
            seen = layer.read_places(layout.together.places)
            return self.kernel(query[0], *seen, layout.together, attend.scaling, window)
        if layout.whole:
            single = layout.singles[0]
            return attend.together(query[0], *layer.read(single.table), single, window)
        result = query.new_empty(query.shape[2], query.shape[1], value.shape[-1])
        for single in layout.singles:
            result[single.index] = attend.together(query[0, :, single.index], *layer.read(single.table), single, window)
        for several in layout.several:
            part = slice(several.first, several.last)
            keys, values = _seen(layer, several, key[:, :, part], value[:, :, part])
            found = attend.alone(query[:, :, part], keys, values, several.mask(window, query))
            result[part] = found[0].transpose(0, 1)
        if layout.padding:
            result[-layout.padding :] = 0
        return result


_here = threading.local()


@contextmanager
def using(attention: Callable[..., tuple[Tensor, None]]) -> Iterator[None]:
    """Let `attention` be what `NAME` means in this thread."""
    _here.attention = attention
    try:
        yield
    finally:
        _here.attention = None


def _active(*args: Any, **options: Any) -> tuple[Tensor, None]:
    """What transformers calls: it knows functions by name, the same for all models of a process."""
    attention: Callable[..., tuple[Tensor, None]] = _here.attention
    return attention(*args, **options)


def tapped(taps: Listening, layer: int, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Show queries, keys and values, each [1, heads, tokens, size]; return what they become."""
    places = (Place.ATTENTION_Q, Place.ATTENTION_K, Place.ATTENTION_V)
    seen = []
    for place, x in zip(places, (query, key, value), strict=True):
        wanted = taps.wants(place, layer)
        seen.append(taps.through(place, layer, x[0].transpose(0, 1)).transpose(0, 1)[None] if wanted else x)
    return seen[0], seen[1], seen[2]


class Attend:
    """One layer's arithmetic, also of models that bound their scores (Gemma 2) or let heads look nowhere (gpt-oss)."""

    def __init__(self, scaling: float, softcap: float | None, sinks: Tensor | None) -> None:
        self.scaling = scaling
        self._softcap = softcap
        self._sinks = sinks
        self.plain = softcap is None and sinks is None

    def together(self, query: Tensor, keys: Tensor, values: Tensor, single: Single, window: int) -> Tensor:
        """Rows with one token each: `query` [heads, rows, size], `keys` and `values` [key heads, rows, length, size].

        Returns [rows, heads, size]. The query heads that share a key head are computed as one query of several tokens.
        """
        heads, rows, _ = query.shape
        shared = keys.shape[0]
        grouped = query.view(shared, heads // shared, rows, -1).transpose(1, 2)
        mask = single.mask(window)
        fused = rows <= _FEW if query.device.type == "cpu" else keys.shape[2] <= _SHORT
        if self.plain and fused:
            found = scaled_dot_product_attention(
                grouped.transpose(0, 1),
                keys.transpose(0, 1),
                values.transpose(0, 1),
                attn_mask=mask[:, None, None].to(query.dtype),
                scale=self.scaling,
            )
            return found.reshape(rows, heads, -1)
        scores = (grouped.flatten(0, 1) * self.scaling) @ keys.flatten(0, 1).transpose(-1, -2)
        weights = self._weights(_wide(scores).view(*grouped.shape[:3], -1), mask[:, None], grouped=True)
        found = weights.to(values.dtype).flatten(0, 1) @ values.flatten(0, 1)
        return found.view(shared, rows, heads // shared, -1).transpose(0, 1).reshape(rows, heads, -1)

    def alone(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, tap: Tap | None = None) -> Tensor:
        """One row with several tokens: `query` [1, heads, tokens, size], `keys` and `values` [1, key heads, ...].

        `tap` sees and may change the probabilities [tokens, heads, keys].
        """
        if self.plain and tap is None:
            return scaled_dot_product_attention(
                query, keys, values, attn_mask=mask, is_causal=mask is None, scale=self.scaling, enable_gqa=True
            )
        groups = query.shape[1] // keys.shape[1]
        keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
        scores = _wide(query @ keys.transpose(-1, -2)) * self.scaling
        if mask is None:
            mask = torch.full(scores.shape[-2:], -math.inf, device=scores.device).triu(1)
        weights = self._weights(scores, mask, grouped=False).to(values.dtype)
        if tap is not None and (changed := tap(weights[0].transpose(0, 1))) is not None:
            weights = changed.transpose(0, 1)[None]
        return weights @ values

    def _weights(self, scores: Tensor, mask: Tensor, *, grouped: bool) -> Tensor:
        """Softmax of float32 `scores`; heads are dimension 1, or 0 and 2 where those that share keys are `grouped`."""
        if self._softcap is not None:
            scores = self._softcap * torch.tanh(scores / self._softcap)
        scores = scores + mask
        if self._sinks is None:
            return scores.softmax(-1)
        shape = (scores.shape[0], 1, -1, 1) if grouped else (1, -1, 1, 1)
        nowhere = _wide(self._sinks).view(shape).expand(*scores.shape[:-1], 1)
        return torch.cat([scores, nowhere], dim=-1).softmax(-1)[..., :-1]


def _wide(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x if x.dtype == torch.float64 else x.float()


def _seen(layer: LayerStore, several: Several, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values that the row sees; its own new ones straight from the layer when there are no others."""
    if several.table is None:
        return key, value
    keys, values = layer.read(several.table)
    end = several.start + several.last - several.first
    return keys[None, :, 0, :end], values[None, :, 0, :end]


def layer_index(module: torch.nn.Module) -> int:
    """The number of the layer that an attention `module` belongs to. Raises `RuntimeError` when it does not say."""
    index = getattr(module, "layer_idx", None)
    if not isinstance(index, int):
        raise RuntimeError(f"{type(module).__name__} does not say which layer it is")
    return index

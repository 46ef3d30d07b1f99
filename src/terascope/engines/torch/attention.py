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

from terascope.engines.torch.cache import LayerStore
from terascope.engines.torch.layout import Layout, Several, Single

NAME = "terascope"
_FEW = 4  # rows up to which PyTorch's fused attention is faster on a CPU than two multiplications


class PackedAttention:
    """The attention of one model, with its KV cache. Inside `at` transformers calls it in every layer."""

    def __init__(self, blocks: int) -> None:
        self._blocks = blocks
        self._layers: dict[int, LayerStore] = {}
        self._layout: Layout | None = None
        self._between: Callable[[float], None] | None = None
        self._begun = 0  # layers of this step
        AttentionInterface.register(NAME, _active)

    @contextmanager
    def at(self, layout: Layout, between: Callable[[float], None] | None = None) -> Iterator[None]:
        """Let this be what `NAME` means in this thread, for one step with `layout`.

        `between` is called in every layer with the part of the layers that are done, 0 to 1; it may raise.
        """
        self._layout, self._between, _here.attention = layout, between, self
        self._begun = 0
        try:
            yield
        finally:
            self._layout, self._between, _here.attention = None, None, None

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
        layer = self._layers.setdefault(_layer_index(module), LayerStore(self._blocks))
        layer.write(layout.places, key[0], value[0])
        attend = _Attend(query.shape[-1] ** -0.5 if scaling is None else scaling, softcap, s_aux)
        window = sliding_window or 0
        if layout.whole:
            single = layout.singles[0]
            return attend.together(query[0], *layer.read(single.table), single, window)[None], None
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
        return result[None], None


_here = threading.local()


def _active(*args: Any, **options: Any) -> tuple[Tensor, None]:
    """What transformers calls: it knows functions by name, the same for all models of a process."""
    attention: PackedAttention = _here.attention
    return attention(*args, **options)


class _Attend:
    """One layer's arithmetic, also of models that bound their scores (Gemma 2) or let heads look nowhere (gpt-oss)."""

    def __init__(self, scaling: float, softcap: float | None, sinks: Tensor | None) -> None:
        self._scaling = scaling
        self._softcap = softcap
        self._sinks = sinks
        self._plain = softcap is None and sinks is None

    def together(self, query: Tensor, keys: Tensor, values: Tensor, single: Single, window: int) -> Tensor:
        """Rows with one token each: `query` [heads, rows, size], `keys` and `values` [key heads, rows, length, size].

        Returns [rows, heads, size]. The query heads that share a key head are computed as one query of several tokens.
        """
        heads, rows, _ = query.shape
        shared = keys.shape[0]
        grouped = query.view(shared, heads // shared, rows, -1).transpose(1, 2)
        mask = single.mask(window)
        if self._plain and (rows <= _FEW or query.device.type != "cpu"):
            found = scaled_dot_product_attention(
                grouped.transpose(0, 1),
                keys.transpose(0, 1),
                values.transpose(0, 1),
                attn_mask=mask[:, None, None].to(query.dtype),
                scale=self._scaling,
            )
            return found.reshape(rows, heads, -1)
        scores = (grouped.flatten(0, 1) * self._scaling) @ keys.flatten(0, 1).transpose(-1, -2)
        weights = self._weights(scores.float().view(*grouped.shape[:3], -1), mask[:, None], grouped=True)
        found = weights.to(values.dtype).flatten(0, 1) @ values.flatten(0, 1)
        return found.view(shared, rows, heads // shared, -1).transpose(0, 1).reshape(rows, heads, -1)

    def alone(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """One row with several tokens: `query` [1, heads, tokens, size], `keys` and `values` [1, key heads, ...]."""
        if self._plain:
            return scaled_dot_product_attention(
                query, keys, values, attn_mask=mask, is_causal=mask is None, scale=self._scaling, enable_gqa=True
            )
        groups = query.shape[1] // keys.shape[1]
        keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
        scores = (query @ keys.transpose(-1, -2)).float() * self._scaling
        if mask is None:
            mask = torch.full(scores.shape[-2:], -math.inf, device=scores.device).triu(1)
        return self._weights(scores, mask, grouped=False).to(values.dtype) @ values

    def _weights(self, scores: Tensor, mask: Tensor, *, grouped: bool) -> Tensor:
        """Softmax of float32 `scores`; heads are dimension 1, or 0 and 2 where those that share keys are `grouped`."""
        if self._softcap is not None:
            scores = self._softcap * torch.tanh(scores / self._softcap)
        scores = scores + mask
        if self._sinks is None:
            return scores.softmax(-1)
        shape = (scores.shape[0], 1, -1, 1) if grouped else (1, -1, 1, 1)
        nowhere = self._sinks.float().view(shape).expand(*scores.shape[:-1], 1)
        return torch.cat([scores, nowhere], dim=-1).softmax(-1)[..., :-1]


def _seen(layer: LayerStore, several: Several, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values that the row sees; its own new ones straight from the layer when there are no others."""
    if several.table is None:
        return key, value
    keys, values = layer.read(several.table)
    end = several.start + several.last - several.first
    return keys[None, :, 0, :end], values[None, :, 0, :end]


def _layer_index(module: torch.nn.Module) -> int:
    index = getattr(module, "layer_idx", None)
    if not isinstance(index, int):
        raise RuntimeError(f"{type(module).__name__} does not say which layer it is")
    return index

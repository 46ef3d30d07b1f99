"""Calibration: attention of new tokens against a KV cache, and over prompts."""

from collections.abc import Iterator, Sequence

import torch
from torch.nn.functional import scaled_dot_product_attention

from terascope.engines.torch.calibrate_cases import Case, Maker, Shapes, copies_of
from terascope.engines.torch.stopwatch import Work

_MOST_SCORES = 4 * 2**30
"""Bytes of scores that attention in three kernels may write."""


def grouped_decode(
    maker: Maker, heads: int, kv_heads: int, head: int, batches: Sequence[int], contexts: Sequence[int]
) -> Iterator[Case]:
    """One new token of each of `batches` sequences against caches of `contexts` tokens, by torch's own attention."""
    for context in contexts:
        for batch in batches:
            yield _decode(maker, (heads, kv_heads, head), batch, context)


def _decode(maker: Maker, widths: tuple[int, int, int], batch: int, context: int) -> Case:
    heads, kv_heads, head = widths
    size = 2 * batch * kv_heads * context * head * 2
    copies = copies_of(size, maker.device)

    def build() -> Work:
        query = maker.normal(batch, heads, 1, head)
        cache = [maker.normal(2, batch, kv_heads, context, head) for _ in range(copies)]
        return lambda run: scaled_dot_product_attention(query, cache[run][0], cache[run][1], enable_gqa=True)

    shape = {"batch": batch, "context": context, "heads": heads, "kv_heads": kv_heads, "head": head}
    return Case("decode", "grouped", "bf16", size, 4.0 * batch * heads * head * context, build, shape, copies)


def latent_decode(maker: Maker, shapes: Shapes, batches: Sequence[int], contexts: Sequence[int]) -> Iterator[Case]:
    """The same for latent attention with its projections absorbed: every head reads one cache of latent values.

    In three kernels, as torch has none that does it in one: scores, their softmax, and the sum of values; the cache is
    read twice, and the scores go to memory and back. `read` counts the cache once.
    """
    for context in contexts:
        for batch in batches:
            if batch * shapes.heads * context * 2 <= _MOST_SCORES:
                yield _latent(maker, shapes, batch, context)


def _latent(maker: Maker, shapes: Shapes, batch: int, context: int) -> Case:
    wide = shapes.kv_lora + shapes.rope
    size = batch * context * wide * 2
    copies = copies_of(size, maker.device)

    def build() -> Work:
        query = maker.normal(batch, shapes.heads, wide)
        cache = [maker.normal(batch, context, wide) for _ in range(copies)]
        return lambda run: attend_latent(query, cache[run], shapes.kv_lora)

    shape = {"batch": batch, "context": context, "heads": shapes.heads, "latent": shapes.kv_lora, "rope": shapes.rope}
    operations = 2.0 * batch * shapes.heads * (wide + shapes.kv_lora) * context
    return Case("decode", f"latent {shapes.name}", "bf16", size, operations, build, shape, copies)


def attend_latent(query: torch.Tensor, cache: torch.Tensor, latent: int) -> torch.Tensor:
    """Attention of `query` [batch, heads, width] against `cache` [batch, context, width]: [batch, heads, latent]."""
    scores = torch.bmm(query, cache.transpose(1, 2)) * query.shape[-1] ** -0.5
    return torch.bmm(scores.softmax(-1), cache[..., :latent])


def prompts(maker: Maker, widths: Sequence[tuple[int, int, int, int]], lengths: Sequence[int]) -> Iterator[Case]:
    """Causal attention over prompts of `lengths` tokens; `widths`: heads, key-value heads, key width, value width."""
    for heads, kv_heads, key, value in widths:
        for length in lengths:
            yield _prompt(maker, heads, kv_heads, key, value, length)


def _prompt(maker: Maker, heads: int, kv_heads: int, key: int, value: int, length: int) -> Case:
    def build() -> Work:
        query, keys = maker.normal(1, heads, length, key), maker.normal(1, kv_heads, length, key)
        values = maker.normal(1, kv_heads, length, value)
        return lambda _: scaled_dot_product_attention(query, keys, values, is_causal=True, enable_gqa=heads != kv_heads)

    shape = {"length": length, "heads": heads, "kv_heads": kv_heads, "key": key, "value": value}
    operations = 2.0 * heads * (key + value) * length * length / 2
    return Case("prompt", "grouped" if key == value else "latent", "bf16", 0, operations, build, shape)

"""Kinds of attention, built from their shapes."""

from terascope.planner.shapes import Attention

_INDEX_SCALE = 4
"""Bytes of the scale that DeepSeek's index keeps beside 128 values in fp8."""


def grouped(
    hidden: int,
    heads: int,
    kv_heads: int,
    head: int,
    *,
    window: int = 0,
    gate: bool = False,
    index: int = 0,
    chosen: int = 0,
    index_heads: int = 0,
) -> Attention:
    """Multi-head, grouped-query and multi-query attention; `gate`: an output gate beside the queries.

    `index` is the width of the keys of a sparse index whose queries have `index_heads` heads.
    """
    queries = hidden * heads * head
    search = hidden * index * (index_heads + 1) if index else 0
    return Attention(
        kind="grouped",
        parameters=queries * (3 if gate else 2) + 2 * hidden * kv_heads * head + search,
        heads=heads,
        cache_heads=kv_heads,
        cache_values=2 * kv_heads * head,
        window=window,
        chosen=chosen,
        pair_flops=4 * heads * head,
        decode_flops=4 * heads * head,
        index_flops=2 * index_heads * index,
    )


def latent(
    hidden: int,
    heads: int,
    q_lora: int,
    kv_lora: int,
    nope: int,
    rope: int,
    value: int,
    *,
    gate: bool = False,
    index: int = 0,
    index_heads: int = 0,
    chosen: int = 0,
) -> Attention:
    """Multi-head latent attention; with `index`, DeepSeek's sparse attention. Every GPU keeps the whole cache."""
    width = nope + rope
    queries = hidden * q_lora + q_lora * heads * width if q_lora else hidden * heads * width
    keys = hidden * (kv_lora + rope) + kv_lora * heads * (nope + value)
    search = q_lora * index_heads * index + hidden * (index + index_heads) if index else 0
    return Attention(
        kind="latent",
        parameters=queries + keys + hidden * heads * value * (2 if gate else 1) + search,
        heads=heads,
        cache_values=kv_lora + rope,
        index_bytes=index + _INDEX_SCALE if index else 0,
        chosen=chosen,
        pair_flops=2 * heads * (width + value),
        decode_flops=2 * heads * (2 * kv_lora + rope),
        index_flops=2 * index_heads * index,
    )


def compressed(
    hidden: int,
    heads: int,
    head: int,
    q_lora: int,
    o_lora: int,
    o_groups: int,
    *,
    ratio: int,
    window: int,
    index: int = 0,
    index_heads: int = 0,
    chosen: int = 0,
) -> Attention:
    """DeepSeek V4's attention: one key-value head, one entry kept for `ratio` tokens, and a window beside them.

    A ratio of 0 keeps the window only. With an index a query reads `chosen` of the entries. The compressor's own state
    is left out: vLLM states a tenth more.
    """
    queries = hidden * q_lora + q_lora * heads * head
    output = heads * head * o_lora + o_groups * o_lora * hidden
    compressor = 2 * hidden * head if ratio else 0
    search = q_lora * index_heads * index + 2 * hidden * index + hidden * index_heads if index else 0
    return Attention(
        kind="compressed",
        parameters=queries + hidden * head + output + compressor + search,
        heads=heads,
        cache_values=head / ratio if ratio else head,
        index_bytes=index / ratio if index else 0,
        state_bytes=2 * window * head if ratio else 0,
        window=0 if ratio else window,
        chosen=chosen * ratio,
        pair_flops=4 * heads * head // max(1, ratio),
        decode_flops=4 * heads * head // max(1, ratio),
        index_flops=2 * index_heads * index // max(1, ratio),
    )


def delta(
    hidden: int, key_heads: int, value_heads: int, key: int, value: int, conv: int, *, state_value_bytes: int
) -> Attention:
    """Gated delta networks, as in Qwen3.5: a state of `key` x `value` for each head."""
    keys, values = key_heads * key, value_heads * value
    mixed = 2 * keys + values
    return Attention(
        kind="linear",
        parameters=hidden * (mixed + values + 2 * value_heads) + values * hidden + mixed * conv,
        heads=value_heads,
        cache_heads=value_heads,
        state_bytes=value_heads * key * value * state_value_bytes + mixed * conv * 2,
        token_flops=8 * value_heads * key * value,
    )


def kimi_delta(hidden: int, heads: int, head: int, conv: int, *, full_gate: bool) -> Attention:
    """Kimi's delta attention: as gated delta networks, with a decay for each channel and an output gate."""
    width = heads * head
    low_rank = hidden * head + head * width
    gate = hidden * width if full_gate else low_rank
    return Attention(
        kind="linear",
        parameters=4 * hidden * width + gate + low_rank + hidden * heads + 3 * width * conv,
        heads=heads,
        cache_heads=heads,
        state_bytes=4 * heads * head * head + 3 * width * conv * 2,
        token_flops=8 * heads * head * head,
    )


def mamba(hidden: int, heads: int, head: int, groups: int, state: int, conv: int) -> Attention:
    """A Mamba-2 layer, in the place of attention; its state is in float32."""
    inner, mixed = heads * head, heads * head + 2 * groups * state
    return Attention(
        kind="mamba",
        parameters=hidden * (inner + mixed + heads) + inner * hidden + mixed * conv,
        heads=heads,
        cache_heads=groups,
        state_bytes=4 * heads * head * state + 2 * mixed * conv,
        token_flops=6 * heads * head * state,
    )

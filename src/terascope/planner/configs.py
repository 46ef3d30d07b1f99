"""From a model's `config.json` to its shapes."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from terascope.core.errors import BadRequest
from terascope.planner import attention
from terascope.planner.feed_forward import feed_forward
from terascope.planner.fields import Fields
from terascope.planner.quantized import native_format
from terascope.planner.shapes import Architecture, Attention

_TEXT_PARTS = ("text_config", "llm_config", "language_config")
_LARGEST_FILE = 16 * 1024 * 1024
KNOWN = (
    "deepseek_v2", "deepseek_v3", "deepseek_v32", "deepseek_v4", "kimi_k2", "kimi_linear", "glm4_moe", "glm_moe_dsa",
    "minimax_m2", "minimax_m3", "llama", "llama4_text", "mistral", "mistral_large_3", "mixtral", "qwen2", "qwen2_moe",
    "qwen3", "qwen3_moe", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "qwen3_vl_text", "qwen3_vl_moe_text",
    "bailing_moe", "gpt_oss", "gemma2", "gemma3_text", "phi3", "olmo2", "smollm3", "granite", "nemotron_h",
    "switch_transformers", "glam", "pangu_sigma",
)  # fmt: skip
"""Values of `model_type` whose parameter counts were compared with published ones, or follow Llama's layout."""


def read_config(path: Path) -> Architecture:
    """Read the `config.json` at `path`, or in that directory.

    Raises `BadRequest` when there is none, it is not JSON, its model type is unknown or it contradicts itself.
    """
    file = path / "config.json" if path.is_dir() else path
    try:
        if file.stat().st_size > _LARGEST_FILE:
            raise BadRequest(f"{file} is too large to be a config.json", param="model")
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadRequest(f"cannot read {file}: {error.strerror}", param="model") from None
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"{file} is not JSON: {error}", param="model") from None
    if not isinstance(values, dict):
        raise BadRequest(f"{file} is not a JSON object", param="model")
    named = values.get("_name_or_path") or (file.parent.name if file.name == "config.json" else file.stem)
    return parse_config(values, str(named), where=str(file))


def parse_config(values: Mapping[str, Any], name: str, *, where: str = "the configuration") -> Architecture:
    """Return the shapes that a parsed `config.json` describes. Raises `BadRequest` as `read_config` does."""
    part = next((key for key in _TEXT_PARTS if isinstance(values.get(key), dict)), None)
    fields = Fields(values[part] if part else values, f"{part} of {where}" if part else where)
    kind = str(fields.values.get("model_type") or values.get("model_type") or "")
    if kind not in KNOWN:
        raise BadRequest(
            f"{where} has model_type {kind or 'missing'!r}, which the planner does not know; it knows "
            f"{', '.join(KNOWN)}. If its layout is that of one of these, write that one's name",
            param="model",
        )
    hidden, vocabulary = fields.need("hidden"), fields.need("vocabulary")
    tied = bool(fields.values.get("tie_word_embeddings", values.get("tie_word_embeddings", False)))
    return Architecture(
        name=name,
        model_type=kind,
        hidden=hidden,
        vocabulary=vocabulary,
        context=fields.get("context") or 1,
        attention=_counted(_attention(fields, kind)),
        feed_forward=_counted(feed_forward(fields, kind)),
        embeddings=hidden * vocabulary * (1 if tied else 2),
        native=native_format(values, fields.values),
        drafts=fields.get("drafts"),
    )


def _counted(layers: Sequence[Any]) -> tuple[tuple[Any, int], ...]:
    return tuple(Counter(layers).items())


def _attention(fields: Fields, kind: str) -> list[Attention]:
    """The attention of each layer, in order."""
    build = _BUILDERS.get(kind) or (_latent if fields.find("kv_lora_rank") else _grouped)
    return build(fields)


def _latent(fields: Fields) -> list[Attention]:
    layers, index = fields.need("layers"), fields.get("index_head_dim")
    kinds = fields.list("indexer_types") or ["full"] * layers
    with_index = _one_latent(fields, index)
    shared = _one_latent(fields, 0, chosen=fields.get("index_topk"))
    return [with_index if kind == "full" else shared for kind in _exactly(fields, kinds, "indexer_types")]


def _one_latent(fields: Fields, index: int, *, gate: bool = False, chosen: int = 0) -> Attention:
    return attention.latent(
        fields.need("hidden"),
        fields.need("heads"),
        fields.get("q_lora_rank"),
        fields.need("kv_lora_rank"),
        fields.get("qk_nope_head_dim"),
        fields.get("qk_rope_head_dim"),
        fields.need("v_head_dim"),
        gate=gate,
        index=index,
        index_heads=fields.get("index_n_heads"),
        chosen=fields.get("index_topk") if index else chosen,
    )


def _kimi_linear(fields: Fields) -> list[Attention]:
    linear = fields.part("linear_attn_config")
    full = _one_latent(fields, 0, gate=fields.flag("mla_use_output_gate"))
    delta = attention.kimi_delta(
        fields.need("hidden"),
        linear.need("num_heads"),
        linear.need("head_dim"),
        linear.need("short_conv_kernel_size"),
        full_gate=linear.flag("use_full_rank_gate"),
    )
    counts = len(linear.list("full_attn_layers")), len(linear.list("kda_layers"))
    if sum(counts) != fields.need("layers"):
        raise fields.wrong(
            f"has {fields.need('layers')} layers, but lists {counts[0]} full and {counts[1]} linear ones"
        )
    return [full] * counts[0] + [delta] * counts[1]


def _compressed(fields: Fields) -> list[Attention]:
    layers = fields.need("layers")
    ratios = fields.list("compress_ratios")[:layers]
    return [_one_compressed(fields, int(ratio)) for ratio in _exactly(fields, ratios, "compress_ratios")]


def _one_compressed(fields: Fields, ratio: int) -> Attention:
    searches = 0 < ratio < 128  # only what is compressed little has an index: DeepSeek's c4a, not c128a
    return attention.compressed(
        fields.need("hidden"),
        fields.need("heads"),
        fields.need("head"),
        fields.need("q_lora_rank"),
        fields.need("o_lora_rank"),
        fields.need("o_groups"),
        ratio=ratio,
        window=fields.need("window"),
        index=fields.need("index_head_dim") if searches else 0,
        index_heads=fields.get("index_n_heads"),
        chosen=fields.get("index_topk") if searches else 0,
    )


def _grouped(fields: Fields) -> list[Attention]:
    """Llama's layout: all layers alike, but for windows (gpt-oss, Gemma, Llama 4) and sparse layers (MiniMax M3)."""
    layers = fields.need("layers")
    windows, sparse = _windows(fields, layers), fields.part("sparse_attention_config")
    indexed = sparse.list("sparse_attention_freq") or [0] * layers
    plain = {window: _one_grouped(fields, window) for window in set(windows)}
    searching = _sparse(fields, sparse) if any(indexed) else None
    pairs = zip(windows, _exactly(fields, indexed, "sparse_attention_freq"), strict=True)
    return [searching if searching and index else plain[window] for window, index in pairs]


def _one_grouped(fields: Fields, window: int = 0) -> Attention:
    heads, kv_heads, head = _heads(fields)
    gate = fields.flag("attn_output_gate")
    return attention.grouped(fields.need("hidden"), heads, kv_heads, head, window=window, gate=gate)


def _sparse(fields: Fields, sparse: Fields) -> Attention:
    heads, kv_heads, head = _heads(fields)
    return attention.grouped(
        fields.need("hidden"),
        heads,
        kv_heads,
        head,
        index=sparse.need("sparse_index_dim"),
        index_heads=sparse.need("sparse_num_index_heads"),
        chosen=sparse.need("sparse_topk_blocks") * sparse.need("sparse_block_size"),
    )


def _heads(fields: Fields) -> tuple[int, int, int]:
    heads, hidden = fields.need("heads"), fields.need("hidden")
    kv_heads = fields.get("kv_heads") or heads
    if heads % kv_heads:
        raise fields.wrong(f"has {heads} query heads, which {kv_heads} key-value heads cannot share evenly")
    if not (head := fields.get("head")) and hidden % heads:
        raise fields.wrong(f"has no head_dim, and hidden size {hidden} is not a multiple of its {heads} heads")
    return heads, kv_heads, head or hidden // heads


def _windows(fields: Fields, layers: int) -> list[int]:
    """The window of each layer; 0 where a layer sees everything."""
    if chunk := fields.get("attention_chunk_size"):  # Llama 4: every fourth layer sees everything
        return [0 if layer % 4 == 3 else chunk for layer in range(layers)]
    window = fields.get("window") if fields.values.get("use_sliding_window", True) else 0
    if kinds := fields.list("layer_types"):
        kinds = _exactly(fields, kinds, "layer_types")
        return [window if kind == "sliding_attention" else 0 for kind in kinds]
    return [window] * layers


def _gated_delta(fields: Fields) -> list[Attention]:
    """Qwen3-Next and Qwen3.5: gated delta networks, every fourth layer full attention."""
    full = _one_grouped(fields)
    linear = attention.delta(
        fields.need("hidden"),
        fields.need("linear_num_key_heads"),
        fields.need("linear_num_value_heads"),
        fields.need("linear_key_head_dim"),
        fields.need("linear_value_head_dim"),
        fields.need("linear_conv_kernel_dim"),
        state_value_bytes=2,
    )
    every = fields.get("full_attention_interval", 4)
    layers = fields.need("layers")
    kinds = fields.list("layer_types") or ["full_attention" if not (n + 1) % every else "" for n in range(layers)]
    return [full if kind == "full_attention" else linear for kind in _exactly(fields, kinds, "layer_types")]


def _nemotron(fields: Fields) -> list[Attention]:
    full = _one_grouped(fields)
    mixer = attention.mamba(
        fields.need("hidden"),
        fields.need("mamba_num_heads"),
        fields.need("mamba_head_dim"),
        fields.need("n_groups"),
        fields.need("ssm_state_size"),
        fields.need("conv_kernel"),
    )
    kinds = {"attention": full, "mamba": mixer}
    return [kinds[kind] for kind in fields.list("layers_block_type") if kind in kinds]


def _switch(fields: Fields) -> list[Attention]:
    """An encoder and a decoder of equal length; attention from one to the other is not counted."""
    heads, head = fields.need("heads"), fields.need("head")
    layers = fields.need("layers") + fields.get("num_decoder_layers")
    return [attention.grouped(fields.need("hidden"), heads, heads, head)] * layers


def _exactly(fields: Fields, values: Sequence[Any], key: str) -> Sequence[Any]:
    layers = fields.need("layers")
    if len(values) != layers:
        raise fields.wrong(f"has {layers} layers, but {len(values)} entries in {key}")
    return values


_BUILDERS: Mapping[str, Callable[[Fields], list[Attention]]] = {
    "deepseek_v4": _compressed,
    "kimi_linear": _kimi_linear,
    "qwen3_next": _gated_delta,
    "qwen3_5_moe_text": _gated_delta,
    "qwen3_5_text": _gated_delta,
    "nemotron_h": _nemotron,
    "switch_transformers": _switch,
}

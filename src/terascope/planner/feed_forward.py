"""Feed-forward layers of a `config.json`: which are dense, which have experts, and what those hold."""

from terascope.planner.fields import Fields
from terascope.planner.shapes import FeedForward

_TWO_MATRICES = ("switch_transformers", "glam", "pangu_sigma", "nemotron_h")
"""Families whose layers have an up and a down projection only; the others have a gate beside them."""


def feed_forward(fields: Fields, kind: str) -> list[FeedForward]:
    """The feed-forward part of each layer, in order. Raises `BadRequest` where the configuration contradicts itself."""
    matrices = 2 if kind in _TWO_MATRICES else 3
    if not fields.get("experts"):
        return [FeedForward(matrices * fields.need("hidden") * fields.need("inner"))] * fields.need("layers")
    mixture = _mixture(fields, kind, matrices)
    if kind == "nemotron_h":
        return [mixture] * fields.list("layers_block_type").count("moe")
    sparse_layers = _sparse_layers(fields, kind)
    if all(sparse_layers):
        return [mixture] * len(sparse_layers)
    dense = FeedForward(matrices * fields.need("hidden") * _dense_inner(fields))
    return [mixture if sparse else dense for sparse in sparse_layers]


def _mixture(fields: Fields, kind: str, matrices: int) -> FeedForward:
    hidden, experts, chosen = fields.need("hidden"), fields.need("experts"), fields.get("chosen", 1)
    if chosen > experts:
        raise fields.wrong(f"chooses {chosen} experts for each token, but has {experts}")
    inner = fields.get("expert_inner") or fields.need("inner")
    latent = fields.get("latent_width")
    width = latent or hidden
    shared = matrices * hidden * _shared_inner(fields, kind, inner)
    return FeedForward(
        dense=shared + (2 * hidden * latent),
        experts=experts,
        expert=matrices * width * inner,
        chosen=chosen,
        router=hidden * experts,
        inner=inner,
        width=width,
        groups=fields.get("topk_group") if fields.get("n_group") > 1 else 0,
    )


def _shared_inner(fields: Fields, kind: str, inner: int) -> int:
    """Width of all shared experts together."""
    if kind == "llama4_text":
        return inner
    if width := fields.get("shared_inner"):
        return width * max(1, fields.get("shared_experts"))
    return inner * fields.get("shared_experts")


def _dense_inner(fields: Fields) -> int:
    return fields.get("dense_inner") or fields.need("inner")


def _sparse_layers(fields: Fields, kind: str) -> list[bool]:
    """Whether each layer has experts."""
    layers = fields.need("layers")
    if kind == "switch_transformers":
        layers += fields.get("num_decoder_layers")
        return [True] * layers
    if frequency := fields.list("moe_layer_freq"):
        if len(frequency) != layers:
            raise fields.wrong(f"has {layers} layers, but {len(frequency)} entries in moe_layer_freq")
        return [bool(one) for one in frequency]
    if kind == "pangu_sigma":  # experts in the last layers only
        return [layer >= layers - fields.need("expert_layers") for layer in range(layers)]
    every = fields.get("interleave_moe_layer_step") or fields.get("decoder_sparse_step") or 1
    first = fields.get("dense_layers")
    if first > layers:
        raise fields.wrong(f"has {layers} layers, of which the first {first} are to be dense")
    plain = set(fields.list("mlp_only_layers"))
    return [layer >= first and not (layer + 1) % every and layer not in plain for layer in range(layers)]

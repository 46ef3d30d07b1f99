"""What the engines can do, as far as a layout goes."""

from dataclasses import dataclass, replace

from terascope.core.errors import BadRequest
from terascope.planner.hardware import Cluster
from terascope.planner.layout import Layout
from terascope.planner.precision import units
from terascope.planner.shapes import Architecture, Attention


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine: how far it divides a model."""

    name: str
    tensor: int
    """Most GPUs of a tensor group."""
    pipeline: bool
    data: bool
    """Whether groups attend to sequences of their own and share experts."""
    context: bool
    """Whether a tensor group divides a cache that each would keep whole."""
    disaggregated: bool
    compact: bool
    """Whether caches keep latent attention's latent values and a window's tokens only, and states instead of caches.

    The others keep keys and values of every head for every token, and cannot serve what has states.
    """


ENGINES = {
    one.name: one
    for one in (
        Engine("vllm", tensor=64, pipeline=True, data=True, context=True, disaggregated=True, compact=True),
        Engine("sglang", tensor=64, pipeline=True, data=True, context=False, disaggregated=True, compact=True),
        Engine("torch", tensor=1, pipeline=False, data=False, context=False, disaggregated=False, compact=False),
    )
}
_WEIGHT_ONLY = {"nvidia": ("fp8", "int8", "int4", "nvfp4", "mxfp4"), "amd": ("int4", "mxfp4"), "intel": ("int4",)}
"""Formats that are unpacked while they are multiplied, where a GPU has no units for them (Marlin and its kin)."""


def engine_named(name: str) -> Engine:
    """Return the engine called `name`. Raises `BadRequest` that lists those there are."""
    if name not in ENGINES:
        raise BadRequest(f"there is no engine {name!r} to plan for; choose one of {', '.join(ENGINES)}", param="engine")
    return ENGINES[name]


def format_refusal(cluster: Cluster, layout: Layout) -> str:
    """Why a GPU cannot use these weights, in a sentence; empty when it can."""
    gpu = cluster.gpu
    for weight in sorted(set(layout.weights.parts)):
        own = units(weight)[0]
        if own not in gpu.peaks and weight != "bf16" and weight not in _WEIGHT_ONLY.get(gpu.vendor, ()):
            return f"{gpu.name} has no {own} units, and no engine unpacks {weight} weights there"
    if layout.cache == "fp8" and "fp8" not in gpu.peaks and gpu.vendor != "nvidia":
        return f"{gpu.name} has no fp8, so its KV cache is bf16"
    return ""


def as_kept(shapes: Architecture, engine: Engine) -> Architecture:
    """Return `shapes` with the caches that `engine` keeps and reads."""
    if engine.compact:
        return shapes
    return replace(shapes, attention=tuple((_whole(one), n) for one, n in shapes.attention))


def engine_refusal(shapes: Architecture, engine: Engine) -> str:
    """Why `engine` cannot serve these shapes, in a sentence; empty when it can."""
    kinds = {one.kind for one, _ in shapes.attention} - {"grouped", "latent"}
    return "" if engine.compact or not kinds else f"{engine.name} has no {' or '.join(sorted(kinds))} attention"


def _whole(one: Attention) -> Attention:
    """Keys and values of every head for every token: as many values as a pair of tokens costs products."""
    if one.kind != "latent":
        return replace(one, window=0)
    return replace(one, cache_values=one.pair_flops / 2, cache_heads=one.heads, decode_flops=one.pair_flops)

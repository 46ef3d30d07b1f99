"""What the engines can do, as far as a layout goes."""

from dataclasses import dataclass

from terascope.core.errors import BadRequest
from terascope.planner.hardware import Cluster
from terascope.planner.layout import Layout
from terascope.planner.precision import units


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


ENGINES = {
    one.name: one
    for one in (
        Engine("vllm", tensor=64, pipeline=True, data=True, context=True, disaggregated=True),
        Engine("sglang", tensor=64, pipeline=True, data=True, context=False, disaggregated=True),
        Engine("torch", tensor=1, pipeline=False, data=False, context=False, disaggregated=False),
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

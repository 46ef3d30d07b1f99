"""How one copy of a model is divided over GPUs."""

from dataclasses import dataclass

from terascope.core.errors import BadRequest
from terascope.planner.precision import CACHE_WIDTHS, Format, units
from terascope.planner.shapes import Architecture

_BLOCK = 128
"""fp8 weights have a scale for each 128 x 128 of them, which no GPU may hold a part of."""


@dataclass(frozen=True, slots=True)
class Layout:
    """One copy of a model on `gpus` GPUs.

    `tp` GPUs divide each attention layer (tensor parallelism), `dp` such groups attend to sequences of their own (data
    parallelism), `pp` divides the layers (pipeline). Routed experts are divided over all `tp * dp` GPUs: whole ones
    over `ep` of them, each cut in the rest. `cp` GPUs of a tensor group divide the cache of what every one of them
    would keep whole (decode context parallelism).
    """

    tp: int
    pp: int
    dp: int
    ep: int
    cp: int
    weights: Format
    cache: str = "bf16"

    @property
    def gpus(self) -> int:
        """GPUs of one copy."""
        return self.tp * self.pp * self.dp

    @property
    def group(self) -> int:
        """GPUs that divide one layer."""
        return self.tp * self.dp

    @property
    def expert_tp(self) -> int:
        """Into how many parts an expert is cut."""
        return self.group // self.ep

    def held(self, experts: int) -> int:
        """Experts that a GPU of `ep` holds whole or a part of; where they do not go round, some are held twice."""
        return -(-experts // self.ep)

    @property
    def cache_width(self) -> float:
        """Bytes of a value in the KV cache."""
        return CACHE_WIDTHS[self.cache]

    @property
    def name(self) -> str:
        """Short, for tables: `TP8 PP2`, `TP1 DP32 EP32`."""
        parts = [f"TP{self.tp}"]
        parts += [f"{label}{n}" for label, n in (("PP", self.pp), ("DP", self.dp), ("EP", self.ep)) if n > 1]
        parts += [f"CP{self.cp}"] if self.cp > 1 else []
        return " ".join(parts)


def make_layout(
    tp: int = 1, pp: int = 1, dp: int = 1, ep: int = 1, cp: int = 1, *, weights: Format, cache: str = "bf16"
) -> Layout:
    """Return a layout whose numbers fit each other. Raises `BadRequest` where they do not."""
    if min(tp, pp, dp, ep, cp) < 1 or (tp * dp) % ep:
        raise BadRequest(f"experts cannot be divided {ep} ways over {tp} x {dp} GPUs", param="layout")
    if tp % cp:
        raise BadRequest(f"{tp} GPUs of a tensor group cannot divide the cache {cp} ways", param="layout")
    return Layout(tp, pp, dp, ep, cp, weights, cache_named(cache))


def cache_named(name: str) -> str:
    """Return `name` where caches are kept so. Raises `BadRequest` that lists how they are."""
    if name not in CACHE_WIDTHS:
        raise BadRequest(f"there is no KV cache in {name!r}; choose one of {', '.join(CACHE_WIDTHS)}", param="kv_dtype")
    return name


def refusal(shapes: Architecture, layout: Layout) -> str:
    """Why the shapes cannot be divided so, in a sentence; empty when they can. Memory is not looked at."""
    if layout.pp > shapes.layers:
        return f"{shapes.layers} layers cannot be divided over {layout.pp} pipeline stages"
    return next((why for why in (_attention(shapes, layout), _experts(shapes, layout)) if why), "")


def _attention(shapes: Architecture, layout: Layout) -> str:
    for one, _ in shapes.attention:
        if one.heads % layout.tp:
            return f"{one.heads} attention heads cannot be divided over {layout.tp} GPUs"
        small, large = sorted((one.cache_heads, layout.tp))
        if one.cache_values and large % small:
            return f"{one.cache_heads} key-value heads cannot be shared evenly by {layout.tp} GPUs"
        if one.cache_values and layout.cp > max(1, layout.tp // one.cache_heads):
            return (
                f"{layout.tp} GPUs keep {one.cache_heads} key-value heads "
                f"{max(1, layout.tp // one.cache_heads)} times, so the cache cannot be divided {layout.cp} ways more"
            )
    return ""


def _experts(shapes: Architecture, layout: Layout) -> str:
    for one, _ in shapes.feed_forward:
        if not one.experts:
            if layout.ep > 1 or layout.dp > 1:
                continue
        elif layout.ep > one.experts:
            return f"there are {one.experts} experts, fewer than the {layout.ep} GPUs they are to be divided over"
        elif one.inner % layout.expert_tp:
            return f"experts of width {one.inner} cannot be cut into {layout.expert_tp} parts"
        elif _blocked(layout) and (one.inner // layout.expert_tp) % _BLOCK:
            return (
                f"experts of width {one.inner} in fp8 blocks of {_BLOCK} cannot be cut into {layout.expert_tp} parts: "
                "use expert parallelism"
            )
    return ""


def _blocked(layout: Layout) -> bool:
    return units(layout.weights.experts)[0] == "fp8"

"""Which arrays a row's captures and gradient give: names, types, shapes, known before anything is computed."""

from collections.abc import Sequence

from terascope.internals.arrays import DType
from terascope.internals.packing import Spec
from terascope.internals.plan import Capture, Gradient, Method, Where
from terascope.internals.reductions import Encode, LogitLens, Max, Mean, Norm, Over, Project, Reduction, TopK, TunedLens
from terascope.internals.shape import ModelShape
from terascope.internals.sites import Axis, Place, axes

GRADIENT = "gradient"
"""What the names of gradients begin with; no capture may be called so."""


def selected(where: Where, shape: ModelShape, tokens: int, keys: int = 0) -> tuple[Axis, ...]:
    """The axes of what is chosen at `where`, of so many tokens: tokens, heads where there are any, units.

    `keys` stands for an axis that is as long as the row: its tokens when the last step was computed.
    """
    *heads, last = (Axis(axis.name, axis.size or keys) for axis in axes(where.site, shape))
    if heads and where.heads is not None:
        heads = [Axis(heads[0].name, len(where.heads))]
    if where.units is not None:
        last = Axis(last.name, len(where.units))
    return (Axis("token", tokens), *heads, last)


def capture_outputs(capture: Capture, shape: ModelShape, tokens: int, keys: int, dtype: DType) -> tuple[Spec, ...]:
    """What `capture` gives when it chose `tokens` tokens, those of the answer included.

    Without a reduction, the type is `dtype`; reduced values are F32, and whole numbers I32. Where steps see different
    numbers of keys, later ones are 0.
    """
    found = selected(capture.where, shape, tokens, keys)
    if capture.reduction is None:
        integers = capture.where.site.place is Place.ROUTER_EXPERTS
        return (_spec(capture.name, DType.I32 if integers else dtype, found),)
    return tuple(
        _spec(f"{capture.name}{suffix}", kind, kept) for suffix, kind, kept in _reduced(capture.reduction, found)
    )


def gradient_outputs(
    gradient: Gradient, shape: ModelShape, tokens: Sequence[int], keys: int, dtype: DType
) -> tuple[Spec, ...]:
    """What `gradient` gives when it chose so many tokens at each of its sites: `gradient/value`, then each site's."""
    found = [Spec(f"{GRADIENT}/value", DType.F32, ())]
    for where, chosen in zip(gradient.sites, tokens, strict=True):
        kept = selected(where, shape, chosen, keys)
        whole = gradient.method is Method.GRADIENT
        found.append(_spec(f"{GRADIENT}/{where.site}", dtype if whole else DType.F32, kept if whole else kept[:-1]))
    return tuple(found)


def _spec(name: str, dtype: DType, kept: Sequence[Axis]) -> Spec:
    return Spec(name, dtype, tuple(axis.size for axis in kept), tuple(axis.name for axis in kept))


def _reduced(reduction: Reduction, found: tuple[Axis, ...]) -> list[tuple[str, DType, tuple[Axis, ...]]]:
    """Suffix, type and axes of each array that the reduction gives."""
    before = found[:-1]
    match reduction:
        case Mean(over) | Max(over):
            return [("", DType.F32, _without(over, found))]
        case Norm():
            return [("", DType.F32, before)]
        case Project(directions):
            return [("", DType.F32, (*before, Axis("direction", directions.shape[0])))]
        case TopK(k):
            return _ranked(before, k, "values", "indices")
        case LogitLens(k) | TunedLens(k):
            return _ranked(before, k, "log_probabilities", "tokens")
        case Encode(_, k):
            return _ranked(before, k, "activations", "features")


def _without(over: Over, found: tuple[Axis, ...]) -> tuple[Axis, ...]:
    gone = {Over.TOKENS: 0, Over.HEADS: 1, Over.UNITS: len(found) - 1}[over]
    return found[:gone] + found[gone + 1 :]


def _ranked(before: tuple[Axis, ...], k: int, values: str, numbers: str) -> list[tuple[str, DType, tuple[Axis, ...]]]:
    kept = (*before, Axis("rank", k))
    return [(f".{values}", DType.F32, kept), (f".{numbers}", DType.I32, kept)]

"""From the captures of a request to those of a plan."""

from collections.abc import Iterator

from terascope.core.errors import BadRequest
from terascope.internals.arrays import Array
from terascope.internals.context import Context
from terascope.internals.outputs import GRADIENT
from terascope.internals.places import at
from terascope.internals.plan import Capture, Where
from terascope.internals.reductions import (
    Encode,
    LogitLens,
    Max,
    Mean,
    Norm,
    Over,
    Project,
    Reduction,
    TopK,
    TunedLens,
)
from terascope.internals.sites import Place, has_heads, is_residual
from terascope.protocol.traces import CaptureFields, EncodeFields, ProjectFields, ReduceFields, TunedLensFields


def read_captures(fields: CaptureFields, context: Context) -> Iterator[Capture]:
    """One capture for each site. Raises `BadRequest`."""
    sites = context.sites("capture", fields.capture)
    if fields.name == GRADIENT:
        raise BadRequest(f"`{GRADIENT}` is what gradients are called; choose another name", param="name")
    for number, site in enumerate(sites):
        where = context.placed(site, fields)
        name = fields.name or str(site)
        with at("reduce"):
            reduction = _Reader(context, where, number, len(sites)).read(fields.reduce)
        yield Capture(f"{name}/{site}" if fields.name and len(sites) > 1 else name, where, reduction)


class _Reader:
    """Reads a reduction for one of several sites."""

    def __init__(self, context: Context, where: Where, number: int, sites: int) -> None:
        self._context = context
        self._where = where
        self._number = number
        self._sites = sites

    def read(self, value: str | ReduceFields | None) -> Reduction | None:
        if value is None:
            return None
        place = self._where.site.place
        if place is Place.ROUTER_EXPERTS:
            raise BadRequest(f"`{self._where.site}` holds numbers of experts, which cannot be reduced")
        fields = value if isinstance(value, ReduceFields) else ReduceFields.model_validate({value: _ALONE[value]})
        if fields.norm:
            return Norm()
        if fields.mean or fields.max:
            over = self._over(fields.mean or fields.max or "")
            return Mean(over) if fields.mean else Max(over)
        if place is Place.ATTENTION_PROBABILITIES:
            raise BadRequest("attention probabilities have as many keys as the row has tokens; use mean, max or norm")
        return self._of_width(fields)

    def _of_width(self, fields: ReduceFields) -> Reduction:
        """Those whose sizes must fit the last axis."""
        width = self._context.width(self._where)
        if fields.top_k:
            return TopK(_at_most("top_k", fields.top_k, width))
        if fields.logit_lens:
            return LogitLens(self._lens("logit_lens", fields.logit_lens))
        if fields.tuned_lens:
            with at("tuned_lens"):
                return self._tuned(fields.tuned_lens, width)
        if fields.project:
            with at("project"):
                return self._project(fields.project, width)
        if fields.encode is None:
            raise BadRequest("there is no such reduction")
        with at("encode"):
            return self._encode(fields.encode, width)

    def _over(self, value: str) -> Over:
        if value == Over.HEADS and not has_heads(self._where.site):
            raise BadRequest(f"`{self._where.site}` has no heads to reduce over")
        return Over(value)

    def _lens(self, field: str, k: int) -> int:
        with at(field):
            if not self._context.shape.vocabulary or not is_residual(self._where.site):
                raise BadRequest(f"`{self._where.site}` cannot be read as logits: it is not of the residual stream")
            if self._where.units is not None:
                raise BadRequest("a lens needs all units; leave `units` out")
        return _at_most(field, k, self._context.shape.vocabulary)

    def _tuned(self, fields: TunedLensFields, width: int) -> TunedLens:
        k = self._lens("k", fields.k)
        arrays, sides = self._context.arrays, (width, width)
        with at("weight"):
            several = len(arrays.get(fields.weight).shape) == len(sides) + 1
        before = (self._sites,) if several else ()
        weight = arrays.shaped("weight", fields.weight, *before, *sides)
        bias = arrays.shaped("bias", fields.bias, *before, width)
        if weight is None:
            raise BadRequest("a tuned lens needs a `weight`")
        return TunedLens(k, self._own(weight, several), None if bias is None else self._own(bias, several))

    def _own(self, one: Array, several: bool) -> Array:
        return one.part(self._number) if several else one

    def _project(self, fields: ProjectFields, width: int) -> Project:
        arrays = self._context.arrays
        directions = arrays.vectors("directions", fields.directions, width)
        return Project(directions, arrays.shaped("center", fields.center, directions.shape[1]))

    def _encode(self, fields: EncodeFields, width: int) -> Encode:
        autoencoder = self._context.arrays.autoencoder(fields.autoencoder, width)
        return Encode(autoencoder, _at_most("k", fields.k, autoencoder.features))


_ALONE = {"mean": "tokens", "max": "tokens", "norm": "units"}


def _at_most(field: str, k: int, size: int) -> int:
    if size and k > size:
        raise BadRequest(f"there are only {size}, not {k}", param=field)
    return k

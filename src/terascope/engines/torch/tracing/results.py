"""From what a row's captures and gradients hold to the arrays that were announced."""

from collections.abc import Mapping

import torch
from torch import Tensor

from terascope.core.errors import BadRequest, InternalError
from terascope.engines.torch.tracing.row import RowTracer
from terascope.engines.torch.tracing.tensors import array_of, torch_dtype
from terascope.internals.arrays import Array, DType
from terascope.internals.outputs import capture_outputs, gradient_outputs
from terascope.internals.packing import Spec
from terascope.internals.plan import RowTrace
from terascope.internals.shape import ModelShape


def arrays_of(
    row: RowTrace, tracer: RowTracer, gradients: Mapping[str, Tensor], shape: ModelShape, keys: int, dtype: DType
) -> dict[str, Array]:
    """Return a row's results by name; `keys` are its tokens when its last step was computed.

    Raises `BadRequest` for what cannot be said of no token at all.
    """
    found: dict[str, Array] = {}
    for capture in row.captures:
        named = tracer.found(capture.name)
        for spec in capture_outputs(capture, shape, len(tracer.tokens(capture.name)), keys, dtype):
            found[spec.name] = _array(spec, named.get(spec.name.removeprefix(capture.name)))
    if row.gradient is not None:
        counts = [gradients[f"gradient/{where.site}"].shape[0] for where in row.gradient.sites]
        for spec in gradient_outputs(row.gradient, shape, counts, keys, dtype):
            found[spec.name] = _array(spec, gradients.get(spec.name))
    return found


def _array(spec: Spec, x: Tensor | None) -> Array:
    if x is None:
        if 0 not in spec.shape:
            raise BadRequest(f"`{spec.name}` is about tokens of which this prompt has none", param="operations")
        x = torch.zeros(spec.shape)
    if x.dim() and spec.shape and x.shape[-1] < spec.shape[-1]:
        x = torch.nn.functional.pad(x, (0, spec.shape[-1] - x.shape[-1]))
    if tuple(x.shape) != spec.shape:
        raise InternalError("a result is not what was announced", detail=f"{spec}: {tuple(x.shape)}")
    return array_of(x.to(torch_dtype(spec.dtype)), spec.dtype)

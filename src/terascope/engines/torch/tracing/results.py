"""From what a row's captures and gradients hold to the arrays that were announced."""

from collections.abc import Mapping
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Result:
    """An array, and what is said of it."""

    spec: Spec
    array: Array


def results_of(
    row: RowTrace, tracer: RowTracer, gradients: Mapping[str, Tensor], shape: ModelShape, keys: int, dtype: DType
) -> list[Result]:
    """Return a row's results; `keys` are its tokens when its last step was computed.

    Raises `BadRequest` for what cannot be said of no token at all.
    """
    found: list[Result] = []
    for capture in row.captures:
        named = tracer.found(capture.name)
        specs = capture_outputs(capture, shape, len(tracer.tokens(capture.name)), keys, dtype)
        found += [Result(spec, _array(spec, named.get(spec.name.removeprefix(capture.name)))) for spec in specs]
    if row.gradient is not None:
        counts = [gradients[f"gradient/{where.site}"].shape[0] for where in row.gradient.sites]
        specs = gradient_outputs(row.gradient, shape, counts, keys, dtype)
        found += [Result(spec, _array(spec, gradients.get(spec.name))) for spec in specs]
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

"""What interventions make of what is at a site."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from terascope.core.errors import BadRequest
from terascope.engines.torch.tracing.features import Autoencoder
from terascope.engines.torch.tracing.tensors import tensor_of
from terascope.internals.arrays import Array
from terascope.internals.plan import (
    AblateMean,
    AblateZero,
    Add,
    Change,
    Clamp,
    EditFeature,
    Intervention,
    Patch,
    ProjectOut,
    Scale,
    Set,
    Where,
)

_RANK = 1e-6  # of the largest singular value: directions that add less to a span add nothing to it


@dataclass(frozen=True, slots=True)
class Now:
    """The tokens that a change acts on in one step.

    `ordinals` are their numbers among the prompt's `count` tokens that were chosen; none in a step of the answer.
    `prompt` has the chosen heads and units of every token of the prompt when this is its pass, else None.
    """

    ordinals: Sequence[int] | None
    count: int
    prompt: Tensor | None


Changer = Callable[[Tensor, Now], Tensor]
"""Returns what x [tokens, heads, units], in float32 at least, becomes."""
Sources = Callable[[str, Where], Tensor]
"""What a row of that name had at a place in the pass of its prompt, [tokens, heads, units]."""


def changer(intervention: Intervention, sources: Sources, device: torch.device) -> Changer:
    """Return what carries out `intervention` on one row. What it raises is the plan's fault."""
    change: Change = intervention.change
    match change:
        case Set(value):
            return _with(value, device, lambda x, given: given.expand_as(x))
        case Add(value, by):
            return _with(value, device, lambda x, given: x + by * given)
        case Scale(by):
            return lambda x, _: x * by
        case AblateZero():
            return lambda x, _: torch.zeros_like(x)
        case AblateMean():
            return _Mean()
        case ProjectOut(directions):
            basis = _basis(tensor_of(directions, device))
            return lambda x, _: x - (x @ basis.to(x.dtype)) @ basis.to(x.dtype).T
        case Clamp(least, most):
            return lambda x, _: x.clamp(least, most)
        case Patch(source, where):
            taken = sources(source, where)
            return lambda x, now: _fit(_of_tokens(taken, now, x), x)
        case EditFeature():
            autoencoder = Autoencoder(change.autoencoder, device)
            return lambda x, _: autoencoder.edited(x, change)


def _with(value: Array, device: torch.device, make: Callable[[Tensor, Tensor], Tensor]) -> Changer:
    given = tensor_of(value, device)
    return lambda x, now: make(x, _of_tokens(given, now, x).to(x.dtype))


def _of_tokens(given: Tensor, now: Now, x: Tensor) -> Tensor:
    """The part of `given` that belongs to the tokens of this step, if it is not the same for all."""
    if given.dim() < x.dim() or given.shape[0] == 1:
        return given
    if now.ordinals is None:
        raise BadRequest("a value for each token of the prompt cannot act in steps of the answer; give one for all")
    if given.shape[0] != now.count:
        raise BadRequest(
            f"there are values for {given.shape[0]} tokens, but {now.count} are chosen here; choose as many"
        )
    return given[list(now.ordinals)]


def _fit(taken: Tensor, x: Tensor) -> Tensor:
    """Rows of probabilities are as long as their prompts: what is missing is 0."""
    if taken.shape[-1] < x.shape[-1]:
        taken = torch.nn.functional.pad(taken, (0, x.shape[-1] - taken.shape[-1]))
    return taken[..., : x.shape[-1]].to(x.dtype).expand_as(x)


class _Mean:
    """Replaces by the mean over the prompt, which steps of the answer get too."""

    def __init__(self) -> None:
        self._mean: Tensor | None = None

    def __call__(self, x: Tensor, now: Now) -> Tensor:
        if now.prompt is not None:
            self._mean = now.prompt.mean(0)
        if self._mean is None:
            raise RuntimeError("a mean over the prompt was asked for before the prompt was read")
        return _fit(self._mean, x)


def _basis(directions: Tensor) -> Tensor:
    """An orthonormal basis [units, rank] of what the rows of `directions` span."""
    _, sizes, vectors = torch.linalg.svd(directions.double(), full_matrices=False)
    basis: Tensor = vectors[sizes > sizes.amax() * _RANK].T
    return basis

"""Short ways to write plans for the tiny model."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from terascope.engines.torch.rows import RowPlan
from terascope.engines.torch.sampling import Sampling
from terascope.engines.torch.tracing.row import RowTracer
from terascope.engines.torch.tracing.tensors import array_of
from terascope.internals.arrays import Array, DType
from terascope.internals.plan import Generation, Gradient, Operation, Prompt, RowTrace, Where
from terascope.internals.shape import ModelShape
from terascope.internals.sites import SitePattern
from terascope.internals.tokens import PROMPT, Positions, Slice, parse_steps, parse_tokens

SHAPE = ModelShape(layers=2, width=64, heads=4, head_width=16, vocabulary=418, neurons=128, kv_heads=2)


def prompt_of(number: int, length: int) -> list[int]:
    return [(number * 41 + i * 13 + 3) % 320 for i in range(length)]


def array(tensor: Tensor) -> Array:
    return array_of(tensor, DType.F64)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def vector(seed: int, size: int) -> Array:
    return array(random(size, seed=seed))


def where(site: str, tokens: Any = "all", steps: Any = None, **part: Any) -> Where:
    (found,) = SitePattern.parse(site).expand(SHAPE)
    chosen = parse_tokens(tokens)
    default = PROMPT if isinstance(chosen, Positions | Slice) else parse_steps("all")
    return Where(found, chosen, default if steps is None else parse_steps(steps), **part)


def trace(*operations: Operation, most: int = 0, name: str = "row", gradient: Gradient | None = None) -> RowTrace:
    return RowTrace(Prompt(name), operations, gradient, Generation(most, ignore_eos=True))


def planned(one: RowTrace, prompt: Sequence[int], tracer: RowTracer) -> RowPlan:
    return RowPlan(
        prompt,
        Sampling(temperature=0, logprobs=0),
        one.generation.max_tokens,
        ignore_eos=True,
        attachments=(tracer,),
        whole=tracer.whole,
        logits_at=tracer.logits_at,
    )

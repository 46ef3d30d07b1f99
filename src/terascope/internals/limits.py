"""What a plan costs, known before it is run, and the limits it must keep.

Forward tokens are priced as a query's. A token that goes forward and backward counts as three of a prompt: the way back
computes the gradients of the activations and what is needed for them, about twice the work of the way there. What is
captured moves through memory and network, and has a price of its own, whatever the model.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

from terascope.core.config import InternalsConfig
from terascope.core.errors import BadRequest
from terascope.core.prices import Price
from terascope.internals.arrays import Array, DType
from terascope.internals.outputs import capture_outputs, gradient_outputs, selected
from terascope.internals.plan import Capture, RowTrace, TracePlan, Where
from terascope.internals.shape import ModelShape
from terascope.internals.tokens import most

GRADIENT_SHARE = 3
"""How many tokens of a prompt a gradient token costs."""
BYTES_PER_MICRO = 4096
"""Bytes of results for a micro service unit: a gigabyte costs about a quarter of a service unit."""
_USUAL = InternalsConfig()


@dataclass(frozen=True, slots=True)
class Cost:
    """Upper bounds of what a plan takes.

    `prompt_tokens` go forward, `output_tokens` are made one by one, `gradient_tokens` go forward and backward, each
    pass counted. `captured_bytes` travel to the client. `memory_bytes` is what the worker needs at least beside the
    model and its cache: the results of the largest row (rows are sent when they are done), supplied arrays, what rows
    take from each other, and the activations kept for the way back of one row.
    """

    prompts: int = 0
    operations: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    gradient_tokens: int = 0
    captured_bytes: int = 0
    supplied_bytes: int = 0
    memory_bytes: int = 0

    def micro(self, price: Price) -> int:
        """Micro service units: (prompt + 3 * gradient) tokens and output tokens at `price`, and the bytes."""
        tokens = price.cost(self.prompt_tokens + GRADIENT_SHARE * self.gradient_tokens, self.output_tokens)
        return tokens + -(-self.captured_bytes // BYTES_PER_MICRO)


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one plan may take of each part of its `Cost`."""

    prompts: int = _USUAL.prompts
    operations: int = _USUAL.operations
    prompt_tokens: int = _USUAL.prompt_tokens
    output_tokens: int = _USUAL.output_tokens
    gradient_tokens: int = _USUAL.gradient_tokens
    captured_bytes: int = _USUAL.captured_bytes
    supplied_bytes: int = _USUAL.supplied_bytes
    memory_bytes: int = _USUAL.memory_bytes

    @classmethod
    def of(cls, told: Mapping[str, object]) -> "Limits":
        """The limits that `told` names, the usual ones else; what is not a whole number from 0 on is not taken."""
        known = {one.name for one in fields(cls)}
        return cls(**{name: one for name, one in told.items() if name in known and type(one) is int and one >= 0})

    def check(self, cost: Cost) -> None:
        """Raise `BadRequest` that names the limit, what the plan would take, and how to take less."""
        for one in fields(self):
            wanted, limit = getattr(cost, one.name), getattr(self, one.name)
            if wanted > limit:
                param, advice = _ADVICE[one.name]
                name = one.name.replace("_", " ")
                message = f"the plan would take {wanted:,} {name}, and {limit:,} are allowed; {advice}"
                raise BadRequest(message, param=param)


_ADVICE = {
    "prompts": ("prompts", "divide the prompts among several calls"),
    "operations": ("operations", "name fewer sites, or divide the plan"),
    "prompt_tokens": ("prompts", "divide the prompts among several calls"),
    "output_tokens": ("max_tokens", "ask for a smaller `max_tokens` or fewer prompts"),
    "gradient_tokens": ("gradient", "take fewer steps or sites, shorter prompts or fewer of them"),
    "captured_bytes": ("operations", "capture fewer sites or tokens, or `reduce` them"),
    "supplied_bytes": ("arrays", "send smaller arrays, or use 16-bit ones"),
    "memory_bytes": ("operations", "capture less in one call, `reduce` it, or shorten what has a gradient"),
}


def cost_of(plan: TracePlan, shape: ModelShape, lengths: Mapping[str, int], dtype: DType) -> Cost:
    """What `plan` takes at most with prompts of `lengths` tokens, by name, on a model that computes in `dtype`.

    Longer prompts, more tokens of an answer and more operations never cost less.
    """
    kept = plan.dtype or dtype
    outputs = {row.name: _bytes_of(row, shape, lengths[row.name], kept) for row in plan.rows}
    supplied = sum(one.nbytes for one in {id(one): one for one in supplied_arrays(plan)}.values())
    passed = sum(_taken(plan, row.name, shape, lengths[row.name], dtype) for row in plan.rows)
    backward = max((_tape(row, shape, lengths[row.name], dtype) for row in plan.rows), default=0)
    return Cost(
        prompts=len(plan.rows),
        operations=sum(len(row.operations) + (len(row.gradient.sites) if row.gradient else 0) for row in plan.rows),
        prompt_tokens=sum(lengths[row.name] for row in plan.rows if _forward(row)),
        output_tokens=sum(row.generation.max_tokens for row in plan.rows),
        gradient_tokens=sum(row.gradient.passes * lengths[row.name] for row in plan.rows if row.gradient),
        captured_bytes=sum(outputs.values()),
        supplied_bytes=supplied,
        memory_bytes=max(outputs.values(), default=0) + supplied + passed + backward,
    )


def _forward(row: RowTrace) -> bool:
    """Whether the row has a pass of its own beside those that go back again."""
    return not row.needs_gradient or bool(row.captures or row.generation.max_tokens)


def _bytes_of(row: RowTrace, shape: ModelShape, length: int, dtype: DType) -> int:
    """Bytes of all that a row gives back."""
    end = length + max(0, row.generation.max_tokens - 1)
    captured = [_captured(one, row, shape, length, end, dtype) for one in row.captures]
    if row.gradient:
        tokens = [most(where.tokens, length) for where in row.gradient.sites]
        captured += [spec.nbytes for spec in gradient_outputs(row.gradient, shape, tokens, length, dtype)]
    return sum(captured)


def _captured(one: Capture, row: RowTrace, shape: ModelShape, length: int, end: int, dtype: DType) -> int:
    tokens = _tokens(one.where, length, row.generation.max_tokens)
    return sum(spec.nbytes for spec in capture_outputs(one, shape, tokens, end, dtype))


def _tokens(where: Where, length: int, max_tokens: int) -> int:
    """How many tokens are chosen at most: in the prompt, and one in each acting step of the answer."""
    answer = where.steps.count(max(0, max_tokens - 1)) - where.steps.prompt
    return (most(where.tokens, length) if where.steps.prompt else 0) + answer


def _taken(plan: TracePlan, name: str, shape: ModelShape, length: int, dtype: DType) -> int:
    """Bytes of what other rows take from the row `name`."""
    shapes = [selected(where, shape, most(where.tokens, length), length) for where in plan.taken_from(name)]
    return dtype.size * sum(math.prod(axis.size for axis in one) for one in shapes)


def _tape(row: RowTrace, shape: ModelShape, length: int, dtype: DType) -> int:
    """Bytes kept for a row's way back: in each layer the residual stream and its norms (8 widths), queries, keys,
    values, probabilities, and three times the neurons; at the end logits and their softmax in 32 bits."""
    if not row.needs_gradient:
        return 0
    heads = shape.heads * (2 * shape.head_width + 2 * (shape.value_width or shape.head_width) + 2 * length)
    neurons = max(shape.neurons, shape.experts_per_token * shape.expert_neurons)
    layer = 8 * shape.width + heads + 3 * neurons
    return length * (shape.layers * layer * dtype.size + 2 * shape.vocabulary * DType.F32.size)


def supplied_arrays(plan: TracePlan) -> Iterator[Array]:
    """Every array that came with the plan; one that several operations use comes several times."""
    for row in plan.rows:
        for one in row.operations:
            yield from _arrays_in(one.reduction if isinstance(one, Capture) else one.change)
        if row.gradient:
            yield from _arrays_in(row.gradient.of)


def _arrays_in(part: object) -> Iterator[Array]:
    for name in getattr(part, "__dataclass_fields__", ()):
        value = getattr(part, name)
        if isinstance(value, Array):
            yield value
        elif name == "autoencoder":
            yield from _arrays_in(value)

"""Where a model's parts are, found by watching one forward pass: nothing here knows an architecture.

In a block, attention adds to the residual stream what some module gives, and so does the MLP: those modules are the
ones whose outputs add up to what was seen afterwards. So norms before, after or between, fused projections, containers
and flat blocks are all the same here. What adds up nowhere, for want of a scale that we do not see, is not offered.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from terascope.engines.torch.linear import PackedLinear
from terascope.engines.torch.spots import first_output, first_tensor

_LINEAR = (nn.Linear, PackedLinear, Conv1D)
_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
_HALF_TOLERANCE = 2e-2


@dataclass(frozen=True, slots=True)
class Call:
    """One module's work in the pass: what it got first, what it gave, when it began and ended."""

    name: str
    module: nn.Module
    input: Tensor | None
    output: Tensor | None
    outputs: Any
    began: int
    ended: int


@dataclass(frozen=True, slots=True)
class Block:
    """The calls of one block that matter. Where one is None, the block has no such thing, or it was not found.

    `mid` is the module that gives the stream between attention and MLP, where one does; `sequential` says that there
    is such a stream. `router` and `neurons` are of blocks with and without a mixture of experts.
    """

    name: str
    call: Call
    layer: int
    attention: Call | None
    mid: Call | None
    sequential: bool
    mlp_input: Call | None
    mlp: Call | None
    neurons: Call | None
    router: Call | None


@dataclass(frozen=True, slots=True)
class Anatomy:
    """The parts of a model. `calls` has every module that was called once."""

    blocks: tuple[Block, ...]
    norm: Call | None
    calls: tuple[Call, ...]


def examine(module: PreTrainedModel, run: Callable[[], object]) -> Anatomy:
    """Return the anatomy of `module`; `run` computes one forward pass of it, over several tokens."""
    calls = _watch(module, run)
    times = Counter(call.module for call in calls)
    single = [call for call in calls if times[call.module] == 1]
    blocks = [_block(name, layer, single) for name, layer in _names(single)]
    return Anatomy(tuple(blocks), _norm(blocks, single), tuple(single))


def is_linear(module: nn.Module) -> bool:
    """True for what multiplies by a matrix."""
    return isinstance(module, _LINEAR)


def _watch(module: nn.Module, run: Callable[[], object]) -> list[Call]:
    """All calls of modules that passed tensors on, in the order in which they ended."""
    calls: list[Call] = []
    clock = count()
    began: list[tuple[int, Tensor | None]] = []

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        has = any(isinstance(one, Tensor) for one in (*args[:1], *kwargs.values()))
        began.append((next(clock), first_tensor(args, kwargs)[1] if has else None))

    def after(name: str, one: nn.Module, output: Any) -> None:
        start, x = began.pop()
        found = first_output(output) if isinstance(output, Tensor | tuple) else None
        calls.append(Call(name, one, x, found if isinstance(found, Tensor) else None, output, start, next(clock)))

    hooks = []
    for name, one in module.named_modules():
        hooks.append(one.register_forward_pre_hook(before, with_kwargs=True))
        hooks.append(one.register_forward_hook(lambda m, _, output, name=name: after(name, m, output)))
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _names(calls: Sequence[Call]) -> Iterator[tuple[str, int]]:
    """Names and numbers of the blocks: those members of a list of modules that hold an attention."""
    names = {call.name: call for call in calls}
    for call in calls:
        index = getattr(call.module, "layer_idx", None)
        inner = any(isinstance(getattr(one, "layer_idx", None), int) for one in list(call.module.modules())[1:])
        if isinstance(index, int) and not inner:
            parts = call.name.split(".")
            numbered = next((at for at, part in enumerate(parts) if part.isdecimal()), None)
            if numbered is not None and (name := ".".join(parts[: numbered + 1])) in names:
                yield name, index


def _block(name: str, layer: int, calls: Sequence[Call]) -> Block:
    whole = next(call for call in calls if call.name == name)
    inside = [call for call in calls if call.name.startswith(f"{name}.")]
    core = next(call for call in inside if isinstance(getattr(call.module, "layer_idx", None), int))
    children = [call for call in inside if call.name.count(".") == name.count(".") + 1]
    mlps = [one for one in children if not _holds(one, core) and _heavy(one.module)]
    found = _Sums(whole, [call for call in inside if call.output is not None], core).find()
    within = [call for call in inside if any(_holds(one, call) for one in mlps)]
    router = next((call for call in within if _routes(call)), None)
    linear = [call for call in within if is_linear(call.module)]
    return Block(
        name,
        whole,
        layer,
        found.attention,
        found.mid,
        found.sequential,
        mlps[0] if mlps else None,
        found.mlp,
        linear[-1] if linear and router is None else None,
        router,
    )


@dataclass(frozen=True, slots=True)
class _Found:
    attention: Call | None = None
    mid: Call | None = None
    sequential: bool = False
    mlp: Call | None = None


class _Sums:
    """What adds up to what in one block."""

    def __init__(self, block: Call, inside: Sequence[Call], core: Call) -> None:
        self._block, self._inside, self._core = block, inside, core

    def find(self) -> _Found:
        """Return what attention and MLP add to the stream, and where it is between them."""
        start, end = self._block.input, self._block.output
        if start is None or end is None:
            return _Found()
        for term in self._after(self._core.began, like=start):
            total = start + _of(term)
            if reader := self._reader(total, term.ended):
                attention = self._outermost(term, reader.began)
                return self._rest(attention, total, reader, end)
        return self._side_by_side(start, end)

    def _rest(self, attention: Call, total: Tensor, reader: Call, end: Tensor) -> _Found:
        for term in self._after(attention.ended, like=total):
            if _same(total + _of(term), end):
                return _Found(attention, None, True, self._outermost(term, self._block.ended))
        normed = reader.output
        if normed is None or normed.shape != total.shape:
            return _Found(attention, None, True)
        mid = self._outermost(reader, self._block.ended)
        for term in self._after(reader.ended, like=total):  # norms come after the sums
            last = self._reader(normed + _of(term), term.ended)
            if last is not None and last.output is not None and _same(last.output, end):
                return _Found(attention, mid, True, self._outermost(term, last.began))
        return _Found(attention, mid, True)

    def _side_by_side(self, start: Tensor, end: Tensor) -> _Found:
        """Attention and MLP that both read the stream before the block."""
        attention = [one for one in self._after(self._core.began, like=start) if _of_attention(one, self._core)]
        others = [one for one in self._after(0, like=start) if one not in attention]
        for first in reversed(attention):
            for second in reversed(others):
                if _same(start + _of(first) + _of(second), end):
                    return _Found(first, None, False, second)
        return _Found()

    def _after(self, time: int, like: Tensor) -> list[Call]:
        return [one for one in self._inside if one.ended > time and _of(one).shape == like.shape]

    def _reader(self, x: Tensor, time: int) -> Call | None:
        """The first module after `time` that gets `x`."""
        later = sorted((one for one in self._inside if one.began > time), key=lambda one: one.began)
        return next((one for one in later if one.input is not None and _same(one.input, x)), None)

    def _outermost(self, call: Call, before: int) -> Call:
        """The last module to end before a time with the output of `call`: containers, switched-off dropout."""
        same = [one for one in self._inside if call.ended <= one.ended < before and _identical(_of(one), _of(call))]
        return max(same, key=lambda one: one.ended)


def _of_attention(call: Call, core: Call) -> bool:
    """True for the attention, what is around it, and what its output goes through."""
    return call.name.startswith(core.name) or core.name.startswith(call.name)


def _norm(blocks: Sequence[Block], calls: Sequence[Call]) -> Call | None:
    """The module that gets what the last block gave, and gives the same shape."""
    if not blocks or blocks[-1].call.output is None:
        return None
    last = blocks[-1].call
    later = [one for one in calls if one.began > last.ended and one.input is not None and one.output is not None]
    stream = _of(last)
    return next((one for one in later if _identical(one.input, stream) and _of(one).shape == stream.shape), None)


def _routes(call: Call) -> bool:
    """True for what tells scores and which experts it chose."""
    if not isinstance(call.outputs, tuple) or not all(isinstance(one, Tensor) for one in call.outputs):
        return False
    return any(not one.is_floating_point() for one in call.outputs) and call.outputs[0].is_floating_point()


def _heavy(module: nn.Module) -> bool:
    """True for what has a matrix somewhere, as norms and dropout have not."""
    return any(is_linear(one) for one in module.modules()) or any(one.dim() > 1 for one in module.parameters())


def _holds(outer: Call, inner: Call) -> bool:
    return inner is outer or inner.name.startswith(f"{outer.name}.")


def _of(call: Call) -> Tensor:
    assert call.output is not None  # noqa: S101 - those without are left out before
    return call.output


def _identical(one: Tensor | None, other: Tensor) -> bool:
    return one is not None and one.shape == other.shape and one.equal(other)


def _same(one: Tensor, other: Tensor) -> bool:
    """True when they differ by no more than the order of a sum makes them."""
    if one.shape != other.shape:
        return False
    tolerance = _TOLERANCE.get(other.dtype, _HALF_TOLERANCE)
    return float((one - other).double().norm()) <= tolerance * float(other.double().norm())

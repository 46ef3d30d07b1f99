"""What adapters add to a step: to the outputs of linear layers, for the rows that have one.

All rows that bring one token are computed at once, with the adapters of all of them side by side as one: A's rows below
each other, B's likewise; in between, what a row's token got from the A of others is put to zero. Rows that bring
several tokens, and those whose bits must not depend on their neighbours, are computed one after the other.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from terascope.engines.torch.lora.weights import Adapter, Pair

_SPARE = 2  # a stack is kept while it has at most so many times as many columns as are needed
_Layout = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Adapted:
    """A row's part of a step: the adapter for the places `first` to before `last` of the batch."""

    adapter: Adapter
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class _Side:
    """One module's terms side by side: `down` [columns, in], `up` [columns, out]; whose they are is in `layout`."""

    down: Tensor
    up: Tensor
    layout: _Layout


@dataclass(slots=True)
class _Stack:
    """Several adapters as one. `owners` say, by layout, which adapter each column belongs to."""

    adapters: tuple[Adapter, ...]
    sides: dict[str, _Side] = field(default_factory=dict)
    owners: dict[_Layout, Tensor] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return sum(adapter.nbytes for adapter in self.adapters)


@dataclass(slots=True)
class _Singles:
    """The rows of this step that bring one token: at which places they are, and which columns are not theirs."""

    places: Tensor | None
    stack: _Stack
    slots: Tensor
    foreign: dict[_Layout, Tensor] = field(default_factory=dict)

    def hidden(self, layout: _Layout) -> Tensor:
        """[rows, columns]: where it is true, a column belongs to another row's adapter."""
        if layout not in self.foreign:
            self.foreign[layout] = self.slots[:, None] != self.stack.owners[layout]
        return self.foreign[layout]


class Terms:
    """Adds adapters' terms to the outputs of one model's modules. Not thread-safe; for inference mode."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._modules: dict[str, nn.Module] = {}
        self._stack = _Stack(())
        self._singles: _Singles | None = None
        self._several: Sequence[Adapted] = ()

    @contextmanager
    def at(self, parts: Sequence[Adapted], tokens: int, *, apart: bool) -> Iterator[None]:
        """Let a forward pass over `tokens` places have the terms of `parts`, which stand in the order of the places.

        `apart`: every row is computed by itself, in its own shape. The hooks come before all others, so that who sees
        a module's output sees it with the term. Nothing is left in the model afterwards, also when the pass raises.
        """
        singles = [] if apart else [part for part in parts if part.last - part.first == 1]
        self._several = parts if apart else [part for part in parts if part.last - part.first > 1]
        self._singles = self._side_by_side(singles, tokens) if singles else None
        with ExitStack() as stack:
            stack.callback(self._end)
            for name in sorted({name for part in parts for name in part.adapter.pairs}):
                handle = self._submodule(name).register_forward_hook(_Hook(self, name), prepend=True)
                stack.callback(handle.remove)
            yield

    def add(self, name: str, x: Tensor, output: Tensor) -> None:
        """Add to `output` [..., tokens, out] of the module `name` the terms for its input `x` [..., tokens, in]."""
        rows, out = x.reshape(-1, x.shape[-1]), output.view(-1, output.shape[-1])
        if self._singles is not None and name in self._singles.stack.sides:
            _add_singles(self._singles, self._singles.stack.sides[name], rows, out)
        for part in self._several:
            if (pair := part.adapter.pairs.get(name)) is not None:
                out[part.first : part.last].addmm_(rows[part.first : part.last] @ pair.down.T, pair.up)

    def _side_by_side(self, parts: Sequence[Adapted], tokens: int) -> _Singles:
        needed = dict.fromkeys(part.adapter for part in parts)
        if not self._fits(list(needed)):
            self._stack = _stack(tuple(needed))
        slot_of = {adapter: slot for slot, adapter in enumerate(self._stack.adapters)}
        device = next(iter(parts[0].adapter.pairs.values())).down.device
        slots = torch.tensor([slot_of[part.adapter] for part in parts], device=device)
        places = None if len(parts) == tokens else torch.tensor([part.first for part in parts], device=device)
        return _Singles(places, self._stack, slots)

    def _fits(self, needed: Sequence[Adapter]) -> bool:
        """Whether the last stack will do: it has all that is needed, and not much besides."""
        there = set(self._stack.adapters)
        return there.issuperset(needed) and self._stack.nbytes <= _SPARE * sum(one.nbytes for one in needed)

    def _submodule(self, name: str) -> nn.Module:
        if name not in self._modules:
            self._modules[name] = self._module.get_submodule(name)
        return self._modules[name]

    def _end(self) -> None:
        self._singles, self._several = None, ()


@dataclass(frozen=True, slots=True)
class _Hook:
    terms: Terms
    name: str

    def __call__(self, _: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        self.terms.add(self.name, inputs[0], output)


def _add_singles(singles: _Singles, side: _Side, rows: Tensor, out: Tensor) -> None:
    places = singles.places
    found = (rows if places is None else rows[places]) @ side.down.T
    if len(singles.stack.adapters) > 1:
        found.masked_fill_(singles.hidden(side.layout), 0)  # not multiplied by 0: what is infinite would not go away
    if places is None:
        out.addmm_(found, side.up)
    else:
        out.index_add_(0, places, found @ side.up)


def _stack(adapters: tuple[Adapter, ...]) -> _Stack:
    stack = _Stack(adapters)
    for name in dict.fromkeys(name for adapter in adapters for name in adapter.pairs):
        pairs = [(slot, one.pairs[name]) for slot, one in enumerate(adapters) if name in one.pairs]
        layout = tuple((slot, pair.down.shape[0]) for slot, pair in pairs)
        down, up = _joined([pair for _, pair in pairs])
        stack.sides[name] = _Side(down, up, layout)
        if layout not in stack.owners:
            slots = [slot for slot, rank in layout for _ in range(rank)]
            stack.owners[layout] = torch.tensor(slots, device=down.device)
    return stack


def _joined(pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """A's below each other and B's below each other; those of one adapter as they are, not copied."""
    if len(pairs) == 1:
        return pairs[0].down, pairs[0].up
    return torch.cat([pair.down for pair in pairs]), torch.cat([pair.up for pair in pairs])

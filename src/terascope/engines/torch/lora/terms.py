"""What adapters add to a step: to the outputs of linear layers, for the rows that have one.

Rows that bring one token and have different adapters are computed at once: their adapters' matrices are laid one behind
the other and multiplied as a batch of matrices. Rows that bring several tokens, many rows of one adapter, and rows
whose bits must not depend on their neighbours are computed adapter by adapter.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from terascope.engines.torch.lora.weights import Adapter, Pair

_CROWD = 4  # rows of one adapter above which they are computed by themselves
_SPARE = 1.5  # a stack is kept while it is at most so many times as large as what is needed of it


@dataclass(frozen=True, slots=True)
class Adapted:
    """A row's part of a step: the adapter for the places `first` to before `last` of the batch."""

    adapter: Adapter
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class _Group:
    """Places of the step, as a slice where they are consecutive, that one adapter is for."""

    adapter: Adapter
    places: slice | Tensor

    def add(self, name: str, x: Tensor, out: Tensor) -> None:
        """Add the term of the module `name` to `out` [tokens, out]; `x` is [tokens, in]."""
        pair = self.adapter.pairs.get(name)
        if pair is None:
            return
        found = x[self.places] @ pair.down.T
        if isinstance(self.places, slice):
            out[self.places].addmm_(found, pair.up)
        else:
            out.index_add_(0, self.places, found @ pair.up)


@dataclass(frozen=True, slots=True)
class _Bank:
    """Terms of one module: `down` [adapters, rank, in], `up` [adapters, rank, out], of those with the numbers `slots`.

    Smaller ranks are filled up with zeros to a power of two.
    """

    slots: tuple[int, ...]
    down: Tensor
    up: Tensor


@dataclass(slots=True)
class _Stack:
    """Several adapters, by module their matrices one behind the other; those of unlike ranks in different banks."""

    adapters: tuple[Adapter, ...] = ()
    banks: dict[str, list[_Bank]] = field(default_factory=dict)

    def serves(self, needed: Sequence[Adapter]) -> bool:
        """Whether it has all of `needed`, and not much besides."""
        size = sum(one.nbytes for one in self.adapters)
        return set(self.adapters).issuperset(needed) and size <= _SPARE * sum(one.nbytes for one in needed)


@dataclass(frozen=True, slots=True)
class _Where:
    """Rows of a bank's adapters, equally many of each: of `index` [adapters x rows] those numbered `kept` are real.

    `places` [kept] are where those stand in the step; without `kept` all are real, without `index` they are the step.
    """

    rows: int
    index: Tensor | None
    kept: Tensor | None
    places: Tensor


@dataclass(slots=True)
class _Mixed:
    """Rows of this step with one token each that are computed at once: the places of each adapter of a stack."""

    stack: _Stack
    places: list[list[int]]
    tokens: int
    device: torch.device
    _known: dict[tuple[int, ...], _Where | None] = field(default_factory=dict)

    def add(self, name: str, x: Tensor, out: Tensor) -> None:
        """See `_Group.add`."""
        for bank in self.stack.banks.get(name, ()):
            if (where := self._where(bank.slots)) is not None:
                _add(bank, where, x, out)

    def _where(self, slots: tuple[int, ...]) -> _Where | None:
        if slots not in self._known:
            self._known[slots] = self._find([self.places[slot] for slot in slots])
        return self._known[slots]

    def _find(self, places: Sequence[Sequence[int]]) -> _Where | None:
        rows = max(map(len, places))
        if rows == 0:
            return None
        index = [place for own in places for place in (*own, *[0] * (rows - len(own)))]
        real = [place for own in places for place in own]
        kept = [number * rows + at for number, own in enumerate(places) for at in range(len(own))]
        whole = index == list(range(self.tokens))
        return _Where(
            rows,
            None if whole else torch.tensor(index, device=self.device),
            None if len(kept) == len(index) else torch.tensor(kept, device=self.device),
            torch.tensor(real, device=self.device),
        )


class Terms:
    """Adds adapters' terms to the outputs of one model's modules. Not thread-safe; for inference mode."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self._module, self._device = module, device
        self._modules: dict[str, nn.Module] = {}
        self._stack = _Stack()
        self._adding: list[_Group | _Mixed] = []

    @contextmanager
    def at(self, parts: Sequence[Adapted], tokens: int, *, apart: bool) -> Iterator[None]:
        """Let a forward pass over `tokens` places have the terms of `parts`, which stand in the order of the places.

        `apart`: every row is computed by itself, in its own shape. The hooks come before all others, so that who sees
        a module's output sees it with the term. Nothing is left in the model afterwards, also when the pass raises.
        """
        self._adding = [_Group(one.adapter, slice(one.first, one.last)) for one in parts] if apart else []
        if not apart:
            self._share_out(parts, tokens)
        with ExitStack() as stack:
            stack.callback(self._adding.clear)
            for name in sorted({name for part in parts for name in part.adapter.pairs}):
                handle = self._submodule(name).register_forward_hook(_Hook(self, name), prepend=True)
                stack.callback(handle.remove)
            yield

    def add(self, name: str, x: Tensor, output: Tensor) -> None:
        """Add to `output` [..., tokens, out] of the module `name` the terms for its input `x` [..., tokens, in]."""
        rows, out = x.reshape(-1, x.shape[-1]), output.view(-1, output.shape[-1])
        for one in self._adding:
            one.add(name, rows, out)

    def _share_out(self, parts: Sequence[Adapted], tokens: int) -> None:
        """Decide what is computed together."""
        singles: dict[Adapter, list[int]] = {}
        for part in parts:
            if part.last - part.first == 1:
                singles.setdefault(part.adapter, []).append(part.first)
            else:
                self._adding.append(_Group(part.adapter, slice(part.first, part.last)))
        mixed = {adapter: places for adapter, places in singles.items() if len(places) <= _CROWD}
        if len(mixed) > 1:
            self._adding.append(self._mix(mixed, tokens))
        alone = singles.keys() - mixed.keys() if len(mixed) > 1 else singles.keys()
        self._adding += [_Group(one, _places(singles[one], self._device)) for one in singles if one in alone]

    def _mix(self, mixed: dict[Adapter, list[int]], tokens: int) -> _Mixed:
        if not self._stack.serves(list(mixed)):
            self._stack = _stack(tuple(mixed))
        places = [mixed.get(adapter, []) for adapter in self._stack.adapters]
        return _Mixed(self._stack, places, tokens, self._device)

    def _submodule(self, name: str) -> nn.Module:
        if name not in self._modules:
            self._modules[name] = self._module.get_submodule(name)
        return self._modules[name]


@dataclass(frozen=True, slots=True)
class _Hook:
    terms: Terms
    name: str

    def __call__(self, _: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        self.terms.add(self.name, inputs[0], output)


def _add(bank: _Bank, where: _Where, x: Tensor, out: Tensor) -> None:
    shape = (len(bank.slots), where.rows, -1)
    if where.index is None:
        out.view(shape).baddbmm_(torch.bmm(x.view(shape), bank.down.mT), bank.up)
        return
    found = torch.bmm(torch.bmm(x[where.index].view(shape), bank.down.mT), bank.up).view(-1, out.shape[-1])
    out.index_add_(0, where.places, found if where.kept is None else found[where.kept])


def _places(places: Sequence[int], device: torch.device) -> slice | Tensor:
    if places[-1] - places[0] == len(places) - 1:
        return slice(places[0], places[-1] + 1)
    return torch.tensor(places, device=device)


def _stack(adapters: tuple[Adapter, ...]) -> _Stack:
    stack = _Stack(adapters)
    for name in dict.fromkeys(name for adapter in adapters for name in adapter.pairs):
        by_rank: dict[int, list[tuple[int, Pair]]] = {}
        for slot, adapter in enumerate(adapters):
            if (pair := adapter.pairs.get(name)) is not None:
                by_rank.setdefault(_power(pair.down.shape[0]), []).append((slot, pair))
        stack.banks[name] = [_bank(rank, members) for rank, members in by_rank.items()]
    return stack


def _bank(rank: int, members: Sequence[tuple[int, Pair]]) -> _Bank:
    def joined(tensors: Sequence[Tensor]) -> Tensor:
        return torch.stack([pad(one, (0, 0, 0, rank - one.shape[0])) for one in tensors])

    slots = tuple(slot for slot, _ in members)
    return _Bank(slots, joined([pair.down for _, pair in members]), joined([pair.up for _, pair in members]))


def _power(rank: int) -> int:
    """The power of two that is at least `rank`."""
    return 1 << (rank - 1).bit_length()

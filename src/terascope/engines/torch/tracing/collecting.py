"""What captures keep: everything, or what a reduction makes of it at once."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from terascope.engines.torch.tracing.features import Autoencoder
from terascope.engines.torch.tracing.lens import Lens
from terascope.engines.torch.tracing.tensors import tensor_of, wide
from terascope.internals.plan import Where
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

Named = Mapping[str, Tensor]
"""Arrays by what is added to their capture's name."""
Pair = Callable[[Tensor, Tensor], None]


class Collector(Protocol):
    """Takes what a capture sees, in the order of the tokens."""

    def take(self, x: Tensor) -> None:
        """Keep what is made of `x` [tokens, heads, units]; nothing of `x` itself."""
        ...

    def settle(self) -> None:
        """Move what was taken in this step to the CPU."""
        ...

    def found(self, order: Sequence[int] | None) -> Named:
        """Return all that was kept, its tokens in `order` (indices among those taken)."""
        ...


def collector(reduction: Reduction | None, where: Where, lens: Lens, device: torch.device) -> Collector:
    """Return what carries out `reduction`."""
    match reduction:
        case Mean(Over.TOKENS) | Max(Over.TOKENS):
            return _OverTokens(largest=isinstance(reduction, Max))
        case LogitLens(k):
            return _Ranked(("log_probabilities", "tokens"), _read(lens, where, k, lambda x: x))
        case TunedLens():
            return _Ranked(
                ("log_probabilities", "tokens"), _read(lens, where, reduction.k, _translator(reduction, device))
            )
        case TopK(k):
            units = None if where.units is None else torch.tensor(where.units, device=device)
            return _Ranked(("values", "indices"), lambda x, found: found(*_largest(x, k, units)))
        case Encode(weights, k):
            autoencoder = Autoencoder(weights, device)
            return _Ranked(
                ("activations", "features"), lambda x, found: found(*_largest(autoencoder.encode(wide(x)), k, None))
            )
        case None:
            return _Kept(lambda x: x)
        case _:
            return _Kept(_per_token(reduction, device))


def _per_token(reduction: Mean | Max | Norm | Project, device: torch.device) -> Callable[[Tensor], Tensor]:
    match reduction:
        case Mean(over):
            return lambda x: wide(x).mean(_axis(over))
        case Max(over):
            return lambda x: wide(x).amax(_axis(over))
        case Norm():
            return lambda x: wide(x).norm(dim=-1)
        case Project(directions, center):
            along = tensor_of(directions, device)
            origin = 0 if center is None else tensor_of(center, device)
            return lambda x: (wide(x) - origin).to(along.dtype) @ along.T


def _axis(over: Over) -> int:
    return 1 if over is Over.HEADS else -1


def _largest(x: Tensor, k: int, units: Tensor | None) -> tuple[Tensor, Tensor]:
    values, indices = wide(x).topk(min(k, x.shape[-1]), dim=-1)
    return values, indices if units is None else units[indices]


class _Kept:
    """Keeps what a function of each token makes of it."""

    def __init__(self, make: Callable[[Tensor], Tensor]) -> None:
        self._make = make
        self._fresh: list[Tensor] = []
        self._parts: list[Tensor] = []

    def take(self, x: Tensor) -> None:
        """See `Collector.take`."""
        made = self._make(x)
        self._fresh.append(made.clone() if made is x else made)

    def settle(self) -> None:
        """See `Collector.settle`."""
        self._parts += [one.cpu() for one in self._fresh]
        self._fresh.clear()

    def found(self, order: Sequence[int] | None) -> Named:
        """See `Collector.found`."""
        return {"": _ordered(_joined(self._parts), order)}


class _Ranked:
    """Keeps the best of each token, with their numbers."""

    def __init__(
        self, names: tuple[str, str], make: Callable[[Tensor, Callable[[Tensor, Tensor], None]], None]
    ) -> None:
        self._names = names
        self._make = make
        self._fresh: list[tuple[Tensor, Tensor]] = []
        self._parts: list[tuple[Tensor, Tensor]] = []

    def take(self, x: Tensor) -> None:
        """See `Collector.take`."""
        self._make(x, lambda values, numbers: self._fresh.append((values, numbers)))

    def settle(self) -> None:
        """See `Collector.settle`."""
        self._parts += [(values.cpu(), numbers.cpu()) for values, numbers in self._fresh]
        self._fresh.clear()

    def found(self, order: Sequence[int] | None) -> Named:
        """See `Collector.found`."""
        columns = zip(*self._parts, strict=True)
        return {f".{name}": _ordered(_joined(parts), order) for name, parts in zip(self._names, columns, strict=True)}


class _OverTokens:
    """The mean or the largest over all tokens."""

    def __init__(self, *, largest: bool) -> None:
        self._largest = largest
        self._total: Tensor | None = None
        self._count = 0

    def take(self, x: Tensor) -> None:
        """See `Collector.take`."""
        made = x.amax(0) if self._largest else x.double().sum(0)
        if self._total is not None:
            made = torch.maximum(self._total, made) if self._largest else self._total + made
        self._total = made
        self._count += x.shape[0]

    def settle(self) -> None:
        """See `Collector.settle`."""

    def found(self, order: Sequence[int] | None) -> Named:
        """See `Collector.found`."""
        if self._total is None:
            return {}
        return {"": (self._total if self._largest else self._total / self._count).cpu()}


def _read(lens: Lens, where: Where, k: int, translate: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Pair], None]:
    return lambda x, found: lens.ask(translate(x).clone(), k, where.site.place, found)


def _translator(reduction: TunedLens, device: torch.device) -> Callable[[Tensor], Tensor]:
    weight = tensor_of(reduction.weight, device)
    bias = 0 if reduction.bias is None else tensor_of(reduction.bias, device)
    return lambda x: wide(x) + wide(x) @ weight.T.to(wide(x).dtype) + bias


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Parts one after the other; where their last axis is the row's tokens, shorter ones are filled up with 0."""
    if len(parts) == 1 or parts[0].dim() == 1:
        return torch.cat(list(parts))
    longest = max(one.shape[-1] for one in parts)
    return torch.cat([one if one.shape[-1] == longest else _filled(one, longest) for one in parts])


def _filled(x: Tensor, length: int) -> Tensor:
    return torch.nn.functional.pad(x, (0, length - x.shape[-1]))


def _ordered(x: Tensor, order: Sequence[int] | None) -> Tensor:
    return x if order is None else x[list(order)]

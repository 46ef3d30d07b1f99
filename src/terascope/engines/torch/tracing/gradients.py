"""Gradients of a stated scalar, and what is made of them, in batches of whole rows."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from terascope.core.errors import BadRequest, EngineNan
from terascope.engines.torch.attachment import Part
from terascope.engines.torch.taps import Taps
from terascope.engines.torch.tracing.changes import Sources
from terascope.engines.torch.tracing.passes import Passes, PlainRow
from terascope.engines.torch.tracing.places import Chosen, Index, put, select
from terascope.engines.torch.tracing.row import RowTracer
from terascope.engines.torch.tracing.scalars import Scalar
from terascope.engines.torch.tracing.tensors import wide
from terascope.internals.outputs import GRADIENT
from terascope.internals.plan import Gradient, Method, Where
from terascope.internals.sites import Place

Named = dict[str, Tensor]
TOKENS_AT_ONCE = 512
"""Tokens of a batch that goes back; a longer row is a batch by itself."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A row whose gradient is wanted: `scalar` is what is differentiated, `tracer` carries out its interventions."""

    tokens: Sequence[int]
    pieces: Sequence[bytes]
    gradient: Gradient
    scalar: Scalar
    tracer: RowTracer
    sources: Sources


Move = Callable[[Tensor], Tensor]


class Watched:
    """One row in one pass: the parts of sites that are differentiated, in the graph. See `passes.Traced`."""

    def __init__(self, ask: Ask, taps: Taps, sites: Sequence[Where], move: Move | None = None) -> None:
        """`move` says what the parts become before anything is computed from them."""
        self.ask = ask
        self.sites = sites
        self._taps, self._move = taps, move
        self._chosen = [Chosen(where, ask.pieces) for where in sites]
        self.parts: list[Tensor | None] = [None] * len(sites)
        self.given: list[Tensor | None] = [None] * len(sites)
        """The parts as they were."""

    @property
    def row(self) -> PlainRow:
        """What is to be computed."""
        ask = self.ask
        logits = {
            at
            for where, chosen in zip(self.sites, self._chosen, strict=True)
            if where.site.place is Place.LOGITS
            for at in chosen.of_prompt
        }
        return PlainRow(ask.tokens, sorted({*ask.scalar.keep, *ask.tracer.logits_at, *logits}), self)

    @contextmanager
    def attach(self, part: Part) -> Iterator[None]:
        """See `passes.Traced.attach`: first the row's own operations, then what is differentiated."""
        with ExitStack() as stack:
            stack.enter_context(self.ask.tracer.attached(part))
            for number, where in enumerate(self.sites):
                first, last, at = _span(where, part)
                found = sorted(set(self._chosen[number].of_prompt))
                index = torch.tensor([at.index(one) for one in found], dtype=torch.long, device=self.ask.tracer.device)
                tap = self._tap(number, where, index)
                stack.enter_context(self._taps.open(where.site, first, last, tap))
            stack.enter_context(self.ask.scalar.attach(self._taps, part))
            yield

    def _tap(self, number: int, where: Where, index: Index) -> Callable[[Tensor], Tensor]:
        def tap(x: Tensor) -> Tensor:
            given = select(x, where, index)
            self.given[number] = given.detach()
            part = given if self._move is None else self._move(given.detach())
            part = part.clone() if part.requires_grad else part.detach().clone().requires_grad_(torch.is_grad_enabled())
            self.parts[number] = part
            changed = x.clone()
            put(changed, where, index, part)
            return changed

        return tap

    def ordered(self, number: int, x: Tensor) -> Tensor:
        """What belongs to a part, its tokens in the order in which they were asked for."""
        chosen = self._chosen[number].of_prompt
        places = {at: place for place, at in enumerate(sorted(set(chosen)))}
        return x[[places[at] for at in chosen]]


def _span(where: Where, part: Part) -> tuple[int, int, Sequence[int]]:
    if where.site.place is Place.LOGITS:
        return part.logits.start, part.logits.stop, part.logits_at
    return part.first, part.last, range(part.last - part.first)


@dataclass(slots=True)
class Sums:
    """What has come together of one row so far."""

    value: Tensor | None = None
    found: Named = field(default_factory=dict)


class Work:
    """The passes that one row's gradient takes. Call `watched` rows in batches, in any order; then `result`."""

    def __init__(self, ask: Ask, taps: Taps) -> None:
        self._ask, self._taps = ask, taps
        self._sums = Sums()

    def watched(self) -> Iterator[Watched]:
        """The rows to be computed, with a way back."""
        gradient = self._ask.gradient
        if gradient.method is not Method.INTEGRATED_GRADIENTS:
            yield Watched(self._ask, self._taps, gradient.sites)
            return
        yield Watched(self._ask, self._taps, ())  # for the scalar's value
        for where in gradient.sites:
            base = self._base(where)
            for step in range(gradient.steps):
                share = (step + 0.5) / gradient.steps
                yield Watched(self._ask, self._taps, [where], _between(base, share))

    def took(self, watched: Watched, value: Tensor, gradients: Sequence[Tensor]) -> None:
        """Take what came of one of them: the scalar, and its gradient by each part."""
        gradient = self._ask.gradient
        whole = gradient.method is not Method.INTEGRATED_GRADIENTS
        if whole or not gradients:
            self._sums.value = value
        for number, (found, where) in enumerate(zip(gradients, watched.sites, strict=True)):
            given = watched.given[number]
            if given is None:
                continue
            made = watched.ordered(number, self._made(where, wide(found), wide(given)))
            before = self._sums.found.get(_name(where))
            self._sums.found[_name(where)] = made.cpu() if before is None else before + made.cpu()

    def result(self) -> Named:
        """The arrays by name. Raises `EngineNan` when one of them is not a number."""
        found = {f"{GRADIENT}/value": self._sums.value, **self._sums.found}
        arrays = {name: one for name, one in found.items() if one is not None}
        for name, one in arrays.items():
            if not one.isfinite().all():
                raise EngineNan(f"`{name}` is infinite or not a number", param="gradient")
        return arrays

    def _made(self, where: Where, gradient: Tensor, given: Tensor) -> Tensor:
        method = self._ask.gradient.method
        if method is Method.GRADIENT:
            return gradient
        if method is Method.INPUT_TIMES_GRADIENT:
            return (given * gradient).sum(-1)
        if method is Method.ATTRIBUTION_PATCHING:
            return ((self._source(where, given) - given) * gradient).sum(-1)
        return ((given - self._base(where)(given)) * gradient / self._ask.gradient.steps).sum(-1)

    def _base(self, where: Where) -> Move:
        if not self._ask.gradient.source:
            return torch.zeros_like
        return lambda given: self._source(where, given)

    def _source(self, where: Where, given: Tensor) -> Tensor:
        """What the other row has there; its tokens in the order of the positions here."""
        return fitted(self._ask.sources(self._ask.gradient.source, where), where, given, self._ask.pieces)


def fitted(taken: Tensor, where: Where, like: Tensor, pieces: Sequence[bytes]) -> Tensor:
    """What another row has, for the tokens of a part, which ascend; one token of it stands for all."""
    chosen = Chosen(where, pieces).of_prompt
    if taken.shape[0] not in (1, len(chosen)):
        raise BadRequest(
            f"`{where.site}` has {taken.shape[0]} tokens in the other prompt and {len(chosen)} here; choose as many"
        )
    if taken.shape[0] > 1:
        taken = taken[[chosen.index(at) for at in sorted(set(chosen))]]
    longer = like.shape[-1] - taken.shape[-1]  # rows of probabilities are as long as their prompts
    taken = torch.nn.functional.pad(taken, (0, longer)) if longer > 0 else taken[..., : like.shape[-1]]
    return taken.to(like.dtype).expand_as(like)


def _between(base: Move, share: float) -> Move:
    return lambda given: base(given) + share * (given - base(given))


def _name(where: Where) -> str:
    return f"{GRADIENT}/{where.site}"


@torch.enable_grad()
def go_back(passes: Passes, rows: Sequence[tuple[Work, Watched]]) -> None:
    """Compute rows at once, forward and back, and give each what came of it.

    Rows do not see each other, so the gradient of the sum of their scalars has in each row's part its own alone.
    """
    with torch.inference_mode(mode=False):
        logits = passes.run([watched.row for _, watched in rows])
        values = [
            watched.ask.scalar.value(found, watched.row.keep) for (_, watched), found in zip(rows, logits, strict=True)
        ]
        parts = [part for _, watched in rows for part in watched.parts if part is not None]
        total = torch.stack(values).sum()
        found = _gradients(total, parts)
        for (work, watched), value in zip(rows, values, strict=True):
            own = [found.pop(0) for part in watched.parts if part is not None]
            work.took(watched, value.detach().cpu(), own)


def _gradients(total: Tensor, parts: Sequence[Tensor]) -> list[Tensor]:
    if not parts or not total.requires_grad:
        return [torch.zeros_like(part) for part in parts]
    found: Sequence[Tensor | None] = torch.autograd.grad(total, list(parts), allow_unused=True)
    return [torch.zeros_like(part) if one is None else one for one, part in zip(found, parts, strict=True)]


def batches(works: Sequence[Work]) -> Iterator[list[tuple[Work, Watched]]]:
    """The rows of all passes, so many at once as `TOKENS_AT_ONCE` allows, and at least one."""
    batch: list[tuple[Work, Watched]] = []
    room = TOKENS_AT_ONCE
    for work, watched in ((one, watched) for one in works for watched in one.watched()):
        room -= len(watched.ask.tokens)
        if batch and room < 0:
            yield batch
            batch, room = [], TOKENS_AT_ONCE - len(watched.ask.tokens)
        batch.append((work, watched))
    yield batch

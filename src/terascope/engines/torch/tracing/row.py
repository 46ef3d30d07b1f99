"""One row's plan at work in the running batch: an attachment."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from terascope.core.errors import BadRequest, EngineNan, ServiceError
from terascope.engines.torch import memory
from terascope.engines.torch.attachment import Part
from terascope.engines.torch.taps import Taps
from terascope.engines.torch.tracing.changes import Changer, Now, Sources, changer
from terascope.engines.torch.tracing.collecting import Collector, Named, collector
from terascope.engines.torch.tracing.lens import Lens
from terascope.engines.torch.tracing.places import Chosen, Index, put, select
from terascope.engines.torch.tracing.tensors import wide
from terascope.engines.worker.text import TokenTable
from terascope.internals.plan import AblateMean, Capture, Intervention, Operation, RowTrace, Where
from terascope.internals.sites import Place, Site


@dataclass(slots=True)
class Bench:
    """What the rows of one model share: its taps, and a lens that answers at the end of each step."""

    taps: Taps
    lens: Lens
    device: torch.device
    table: TokenTable
    _open: int = 0
    _ends: list[Callable[[], None]] = field(default_factory=list)

    @contextmanager
    def step(self, end: Callable[[], None]) -> Iterator[None]:
        """Hold while a row is in a step. When the last row leaves it, the lens answers, and then each `end` is called.

        Where the step fails nothing of that is done.
        """
        self._open += 1
        self._ends.append(end)
        try:
            yield
            if self._open == 1:
                self.lens.flush()
                for one in self._ends:
                    one()
        finally:
            self._open -= 1
            if not self._open:
                self.lens.drop()
                self._ends.clear()


@dataclass(slots=True)
class _Acting:
    """One operation of a row."""

    where: Where
    chosen: Chosen
    collector: Collector | None = None
    changer: Changer | None = None
    whole: bool = False
    taken: list[int] = field(default_factory=list)


class RowTracer:
    """Sees and changes one row by its plan. An `Attachment`.

    What goes wrong with the plan is kept in `failure`; the step goes on, so that nobody beside it notices. Positions
    are seen once, also when the row is computed again.
    """

    def __init__(
        self,
        trace: RowTrace,
        prompt: Sequence[int],
        bench: Bench,
        sources: Sources,
        kept: Sequence[Where] = (),
    ) -> None:
        """`kept` is what other rows take from this one. Raises `BadRequest` for tokens that the prompt lacks."""
        self.failure: ServiceError | None = None
        self._bench = bench
        self._length = len(prompt)
        self._pieces = [bench.table.text_bytes(token) for token in prompt]
        self._captures = {one.name: self._acting(one, sources) for one in trace.captures}
        self._sites: dict[Site, list[_Acting]] = {}
        for one in trace.operations:
            acting = self._captures[one.name] if isinstance(one, Capture) else self._acting(one, sources)
            self._sites.setdefault(one.where.site, []).append(acting)
        self._kept = {where: self._keeping(where) for where in kept}
        for where, acting in self._kept.items():
            self._sites.setdefault(where.site, []).append(acting)
        self._reads = any(one.chosen.reads for acting in self._sites.values() for one in acting)
        self._checks: list[tuple[Site, Tensor]] = []

    @property
    def whole(self) -> bool:
        """True when the prompt must be read in one step: means over it, and rows of probabilities as long as it."""
        sites = any(site.place is Place.ATTENTION_PROBABILITIES for site in self._sites)
        return sites or any(one.whole for acting in self._sites.values() for one in acting)

    @property
    def logits_at(self) -> frozenset[int]:
        """Tokens of the prompt whose logits are seen or changed."""
        acting = self._sites.get(Site(Place.LOGITS), ())
        if any(one.whole for one in acting):
            return frozenset(range(self._length))
        return frozenset(at for one in acting for at in one.chosen.of_prompt)

    def found(self, name: str) -> Named:
        """What the capture `name` keeps; empty when none of its tokens came."""
        return self._result(self._captures[name])

    def tokens(self, name: str) -> list[int]:
        """The positions that the capture `name` has seen, in the order of its results."""
        acting = self._captures[name]
        order = self._order(acting)
        return acting.taken if order is None else [acting.taken[at] for at in order]

    def source(self, where: Where) -> Tensor:
        """What other rows take at `where`, [tokens, heads, units] on the CPU; its prompt must have been read."""
        return self._result(self._kept[where])[""]

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self._bench.device

    def attach(self, module: PreTrainedModel, part: Part) -> AbstractContextManager[None]:
        """See `Attachment.attach`."""
        return self.attached(part)

    @contextmanager
    def attached(self, part: Part) -> Iterator[None]:
        """What `attach` returns; the model is known from the bench."""
        with self._bench.step(self._settle), ExitStack() as stack:
            answer = self._answer(part)
            for site, acting in self._sites.items():
                self._open(stack, site, acting, part, answer)
            yield

    def _open(
        self, stack: ExitStack, site: Site, acting: Sequence[_Acting], part: Part, answer: Sequence[bytes]
    ) -> None:
        """Tap `site` if any of its operations acts in this part of the row."""
        first, last, places = part.first, part.last, range(part.start, part.start + part.last - part.first)
        at: Sequence[int] = places
        if site.place is Place.LOGITS:  # of which only some places have any
            first, last, at = part.logits.start, part.logits.stop, part.logits_at
        todo = [
            (one, found)
            for one in acting
            for found in self._groups(one, one.chosen.within(places.start, places.stop, answer), at)
        ]
        if todo:
            stack.enter_context(self._bench.taps.open(site, first, last, self._tap(site, todo, at)))

    def _groups(self, one: _Acting, found: Sequence[int], places: Sequence[int]) -> list[list[int]]:
        """The positions that are at hand: those of the prompt, then those of the answer.

        A part without any is left out, but for the prompt of what needs all of it to act later.
        """
        here = set(places)
        prompt = [at for at in found if at < self._length and at in here]
        answer = [at for at in found if at >= self._length and at in here]
        reads = one.whole and bool(places) and places[0] < self._length
        return [*([prompt] if prompt or reads else []), *([answer] if answer else [])]

    def _answer(self, part: Part) -> list[bytes]:
        """The bytes of the answer's tokens so far, if anybody looks for texts."""
        if not self._reads:
            return []
        return [self._bench.table.text_bytes(token) for token in part.tokens[self._length :]]

    def _tap(self, site: Site, todo: Sequence[tuple[_Acting, list[int]]], places: Sequence[int]) -> "_RowTap":
        at = {place: number for number, place in enumerate(places)}
        device = self._bench.device
        indices = [
            None
            if len(found) == len(places)
            else torch.tensor([at[one] for one in found], dtype=torch.long, device=device)
            for _, found in todo
        ]
        return _RowTap(self, site, [(one, found, index) for (one, found), index in zip(todo, indices, strict=True)])

    def carry_out(self, site: Site, todo: "Sequence[tuple[_Acting, list[int], Index]]", x: Tensor) -> Tensor | None:
        """Do what is to be done with `x`, the row's part of `site`; return what it becomes if that changes."""
        changed: Tensor | None = None
        for one, found, index in todo:
            now = x if changed is None else changed
            if one.collector is not None:
                self._collect(one, found, index, now)
            elif one.changer is not None and self.failure is None:
                changed = now.clone() if changed is None else changed
                put(changed, one.where, index, self._made(site, one, found, index, now))
        return changed

    def failed(self, error: Exception, site: Site) -> None:
        """Note that the plan cannot be carried out at `site`."""
        if memory.was_too_little(error):
            raise error
        words = str(error).split("\n", 1)[0][:200]
        told = BadRequest(f"the operations at `{site}` do not fit what is there: {words}", param="operations")
        self.failure = self.failure or (error if isinstance(error, ServiceError) else told)

    def _collect(self, one: _Acting, found: list[int], index: Index, x: Tensor) -> None:
        last = one.taken[-1] if one.taken else -1
        new = [number for number, at in enumerate(found) if at > last]
        if not new or one.collector is None:
            return  # computed again, after its memory was needed by others
        chosen = select(x, one.where, index).detach()
        one.collector.take(chosen if len(new) == len(found) else chosen[new])
        one.taken += [found[number] for number in new]

    def _made(self, site: Site, one: _Acting, found: list[int], index: Index, x: Tensor) -> Tensor:
        before = wide(select(x, one.where, index))
        prompt = wide(select(x, one.where, None)) if one.whole and (not found or found[0] < self._length) else None
        prompt = prompt if prompt is None else prompt[: self._length]
        assert one.changer is not None  # noqa: S101 - the caller has looked
        made = one.changer(before, Now(one.chosen.ordinals(found), len(one.chosen.of_prompt), prompt)).to(x.dtype)
        self._checks.append((site, made.isfinite().all()))
        return made

    def _settle(self) -> None:
        for acting in self._sites.values():
            for one in acting:
                if one.collector is not None:
                    one.collector.settle()
        checks, self._checks = self._checks, []
        wrong = [site for site, fine in checks if not fine]
        if wrong and self.failure is None:
            self.failure = EngineNan(
                f"the plan made activations at `{wrong[0]}` infinite or not a number; make the change smaller",
                param="operations",
            )

    def _result(self, acting: _Acting) -> Named:
        if not acting.taken or acting.collector is None:
            return {}
        return acting.collector.found(self._order(acting))

    def _order(self, acting: _Acting) -> list[int] | None:
        """How to bring what was taken into the order that was asked for; None where it is the same."""
        wanted = [*acting.chosen.of_prompt, *(at for at in acting.taken if at >= self._length)]
        if wanted == acting.taken:
            return None
        number = {at: n for n, at in enumerate(acting.taken)}
        return [number[at] for at in wanted if at in number]

    def _acting(self, operation: Operation, sources: Sources) -> _Acting:
        where = operation.where
        chosen = Chosen(where, self._pieces)
        if isinstance(operation, Intervention):
            mean = isinstance(operation.change, AblateMean)
            return _Acting(where, chosen, None, changer(operation, sources, self._bench.device), mean)
        return _Acting(where, chosen, collector(operation.reduction, where, self._bench.lens, self._bench.device))

    def _keeping(self, where: Where) -> _Acting:
        made = collector(None, where, self._bench.lens, self._bench.device)
        return _Acting(where, Chosen(where, self._pieces), made)


@dataclass(frozen=True, slots=True)
class _RowTap:
    tracer: RowTracer
    site: Site
    todo: "Sequence[tuple[_Acting, list[int], Index]]"

    def __call__(self, x: Tensor) -> Tensor | None:
        try:
            return self.tracer.carry_out(self.site, self.todo, x)
        except Exception as error:  # noqa: BLE001 - the edge of a plan: only its own row fails
            self.tracer.failed(error, self.site)
            return None


def no_sources(name: str, where: Where) -> Tensor:
    """The sources of a call whose rows take nothing from each other."""
    raise BadRequest(f"there is no row {name!r} to take `{where.site}` from")


def sources_of(rows: Mapping[str, RowTracer], device: torch.device) -> Sources:
    """What `rows`, whose prompts have been read, give to others."""
    return lambda name, where: rows[name].source(where).to(device).clone()

"""One call: its rows in their order, so many at once as memory allows, each with its own fate."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

from torch import Tensor

from terascope.core.errors import BadRequest, EngineNan, ServiceError
from terascope.engines.torch.attachment import Part
from terascope.engines.torch.intake import Terms
from terascope.engines.torch.jobs import Job
from terascope.engines.torch.loop import RowJob
from terascope.engines.torch.rows import Event, Finish, RowPlan
from terascope.engines.torch.sampling import Sampling
from terascope.engines.torch.tracing.direct import Direct
from terascope.engines.torch.tracing.gradients import Ask, Named, Work
from terascope.engines.torch.tracing.passes import PlainRow
from terascope.engines.torch.tracing.results import Result, results_of
from terascope.engines.torch.tracing.row import RowTracer
from terascope.engines.torch.tracing.scalars import Scalar
from terascope.engines.torch.tracing.tools import Tools
from terascope.internals.order import waves
from terascope.internals.plan import Method, RowTrace, TracePlan, Where

_AT_ONCE = 64  # rows of one call that are begun and not yet delivered
_BYTES_AT_ONCE = 128 << 20  # what their results may take; while they are packed they are there twice


@dataclass(slots=True)
class RowResult:
    """What became of one row; with an `error` there are no results."""

    name: str
    tokens: Sequence[int]
    text: str = ""
    output_tokens: list[int] = field(default_factory=list)
    finish: Finish | None = None
    results: Sequence[Result] = ()
    error: ServiceError | None = None


class Call:
    """Carries out one plan. For one event loop."""

    def __init__(
        self,
        plan: TracePlan,
        prompts: Mapping[str, Sequence[int]],
        tools: Tools,
        request_id: str,
        *,
        terms: Terms,
        seed: int,
    ) -> None:
        """`prompts` are the rows' tokens by name; rows without a seed of their own have `seed`."""
        self._plan, self._prompts, self._tools = plan, prompts, tools
        self._request_id, self._terms, self._seed = request_id, terms, seed
        self._rows = {row.name: row for row in plan.rows}
        self._tracers: dict[str, RowTracer] = {}
        self._read = {row.name: asyncio.Event() for row in plan.rows}
        self._wanted = {name: {row.name for row in plan.rows if name in row.sources} for name in self._rows}

    @property
    def order(self) -> list[str]:
        """The order in which rows are begun and delivered: those that others take from come first."""
        return [name for wave in waves(self._plan.rows) for name in wave]

    async def results(self, sizes: Mapping[str, int]) -> AsyncGenerator[RowResult, None]:
        """The rows' results in `order`; `sizes` are the bytes of each, about.

        A row that fails has an error and harms no other, but for those that take from it. Closing the iterator ends
        all work.
        """
        waiting = deque(self.order)
        begun: deque[tuple[str, asyncio.Task[RowResult]]] = deque()
        try:
            while waiting or begun:
                held = sum(sizes[name] for name, _ in begun)
                while waiting and len(begun) < _AT_ONCE and (not begun or held + sizes[waiting[0]] <= _BYTES_AT_ONCE):
                    name = waiting.popleft()
                    held += sizes[name]
                    begun.append((name, asyncio.create_task(self._row(self._rows[name]))))
                yield await begun[0][1]
                begun.popleft()
        finally:
            for _, task in begun:
                task.cancel()
            await asyncio.gather(*(task for _, task in begun), return_exceptions=True)

    async def _row(self, row: RowTrace) -> RowResult:
        result = RowResult(row.name, self._prompts[row.name])
        try:
            for name in sorted(row.sources):
                await self._read[name].wait()
            await self._compute(row, result)
        except ServiceError as error:
            result.error, result.results = error, ()
        finally:
            self._read[row.name].set()
            self._let_go(row)
        return result

    def _let_go(self, row: RowTrace) -> None:
        """Forget what rows gave that nobody takes from any more."""
        if not self._wanted[row.name]:
            self._tracers.pop(row.name, None)
        for name in row.sources:
            self._wanted[name].discard(row.name)
            if not self._wanted[name]:
                self._tracers.pop(name, None)

    async def _compute(self, row: RowTrace, result: RowResult) -> None:
        kept = self._plan.taken_from(row.name)
        tracer = RowTracer(row, result.tokens, self._tools.bench, self._source, kept)
        if row.captures or kept or row.generation.max_tokens or row.gradient is None:
            await self._forward(row, tracer, result)
            if tracer.failure is not None:
                raise tracer.failure
            self._tracers[row.name] = tracer
            self._read[row.name].set()
        gradients = await self._gradients(row, result.tokens) if row.gradient else {}
        length = len(result.tokens) + max(0, len(result.output_tokens) - 1)
        result.results = await asyncio.to_thread(
            results_of, row, tracer, gradients, self._tools.shape, length, self._plan.dtype or self._tools.dtype
        )

    async def _forward(self, row: RowTrace, tracer: RowTracer, result: RowResult) -> None:
        if self._tools.loop is None:
            await self._tools.forward.run([PlainRow(result.tokens, (), _Plain(tracer))])
            result.finish = Finish.LENGTH
            return
        job: RowJob = Job(self._request_id, [self._planned(row, tracer, result.tokens)], group=self)
        self._tools.loop.submit(job)
        try:
            while result.finish is None:
                event = await job.news.get()
                if event.error is not None:
                    raise tracer.failure or _blamed(row, event.error)
                if tracer.failure is not None:
                    raise tracer.failure
                _take(result, event)
        finally:
            self._tools.loop.cancel(job)

    def _planned(self, row: RowTrace, tracer: RowTracer, tokens: Sequence[int]) -> RowPlan:
        generation = row.generation
        seed = self._seed if generation.seed is None else generation.seed
        return RowPlan(
            tokens,
            Sampling(generation.temperature, generation.top_p, seed=seed, logprobs=0),
            generation.max_tokens,
            ignore_eos=generation.ignore_eos,
            attachments=(tracer,),
            priority=self._terms.priority,
            adapter=self._terms.adapter,
            whole=tracer.whole,
            logits_at=tracer.logits_at,
        )

    async def _gradients(self, row: RowTrace, tokens: Sequence[int]) -> Named:
        gradient, tools = row.gradient, self._tools
        if gradient is None:
            return {}
        pieces = [tools.bench.table.text_bytes(token) for token in tokens]
        scalar = Scalar(gradient.of, tokens, pieces, tools.bench.device, tools.token)
        changed = replace(row, operations=row.interventions)
        tracer = RowTracer(changed, tokens, tools.bench, self._source)
        ask = Ask(tokens, pieces, gradient, scalar, tracer, self._source)
        if gradient.method is Method.DIRECT_LOGIT:
            found = await tools.thread.between_steps(Direct(ask, tools.passes, tools.unembedding).run)
        else:
            work = Work(ask, tools.bench.taps)
            await tools.back.run([(work, watched) for watched in work.watched()])
            found = work.result()
        if tracer.failure is not None:
            raise tracer.failure
        return found

    def _source(self, name: str, where: Where) -> Tensor:
        """What a row that has been read gives to others. Raises `BadRequest` when it failed."""
        if name not in self._tracers:
            raise BadRequest(f"the prompt `{name}`, which this one takes from, failed", param="operations")
        return self._tracers[name].source(where).to(self._tools.bench.device).clone()


@dataclass(frozen=True, slots=True)
class _Plain:
    """A row of a pass of its own. See `passes.Traced`."""

    tracer: RowTracer

    def attach(self, part: Part) -> AbstractContextManager[None]:
        """See `passes.Traced.attach`."""
        return self.tracer.attached(part)


def _take(result: RowResult, event: Event) -> None:
    result.text += event.text
    result.output_tokens += [info.token for info in event.tokens]
    result.finish = event.finish


def _blamed(row: RowTrace, error: ServiceError) -> ServiceError:
    """An error that says that the row's own changes are probably to blame, where it has any."""
    if not isinstance(error, EngineNan) or not row.interventions:
        return error
    sites = ", ".join(dict.fromkeys(f"`{one.where.site}`" for one in row.interventions))
    return EngineNan(
        f"the model computed something that is not a number after the changes at {sites}; make them smaller",
        param="operations",
    )

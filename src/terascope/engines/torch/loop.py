"""The batching loop: one thread, one step after the other; rows join and leave between steps."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from terascope.core.errors import EngineOutOfMemory, InternalError, ServiceError
from terascope.engines.torch import memory
from terascope.engines.torch.attachment import Insert, Part
from terascope.engines.torch.cache import BLOCK
from terascope.engines.torch.interruption import Interrupted, Interruptions, worthwhile
from terascope.engines.torch.jobs import ComputeThread, Job
from terascope.engines.torch.lora.terms import Adapted
from terascope.engines.torch.pace import Pace
from terascope.engines.torch.packed import PackedModel, Step
from terascope.engines.torch.rows import Event, Finish, Row, RowPlan, Turn
from terascope.engines.torch.sampling import Draw, not_a_number, sample, score
from terascope.engines.torch.schedule import Scheduler
from terascope.engines.torch.vocabulary import Vocabulary
from terascope.engines.worker.metrics import Metrics

_log = logging.getLogger(__name__)
RowJob = Job[RowPlan, Event]
_STEP_TOKENS = 512
_GPU_STEP_TOKENS = 2048  # a few hundred are enough for a CPU to be busy; a GPU wants more


class BatchLoop(ComputeThread[RowPlan, Event]):
    """Computes all jobs in one running batch."""

    def __init__(
        self,
        packed: PackedModel,
        vocabulary: Vocabulary,
        loop: asyncio.AbstractEventLoop,
        crashed: Callable[[BaseException], None],
        metrics: Metrics,
        *,
        max_batch: int = 32,
        step_tokens: int = 0,
        extra_rows: int = 0,
    ) -> None:
        """See `ComputeThread`. `max_batch` rows run at most, and `step_tokens` tokens are computed at once.

        With `step_tokens` 0 it is what suits the device.

        `extra_rows` more run that are not of the worst priority. A step is given up when a row comes that is better
        than one in it, and computed again afterwards, unless it is nearly done or too much was thrown away before.
        """
        super().__init__("batch-loop", loop, crashed)
        self._packed = packed
        self._vocabulary = vocabulary
        self._metrics = metrics
        self.pace = Pace()
        most = step_tokens or (_GPU_STEP_TOKENS if packed.device.type == "cuda" else _STEP_TOKENS)
        self._schedule = Scheduler(packed.pool, max_batch, most, packed.fixed_rows, extra_rows)
        self._interruptions = Interruptions()
        self._rows: dict[RowJob, list[Row]] = {}
        self._followers: dict[Row, list[Row]] = {}
        self._job_of: dict[Row, RowJob] = {}

    def _jobs(self) -> Sequence[RowJob]:
        return tuple(self._rows)

    def _begin(self, job: RowJob) -> None:
        now = time.perf_counter()
        rows = [Row(index, plan, self._vocabulary, job.group, now) for index, plan in enumerate(job.work)]
        self._rows[job] = rows
        self._job_of.update(dict.fromkeys(rows, job))
        first_of: dict[int, Row] = {}
        for row in rows:
            first = first_of.setdefault(id(row.plan.prompt), row)
            if first is not row and _worth_waiting(row):  # the first choice computes the prompt for the others
                self._followers.setdefault(first, []).append(row)
            else:
                self._schedule.add(row)

    def _end(self, job: RowJob) -> None:
        for row in self._rows.pop(job, ()):
            # one that chose a token has computed nothing but numbers
            self._leave(row, clean=row.made > 0 and not row.doubtful)

    def _leave(self, row: Row, *, clean: bool) -> None:
        """Forget `row`. What is not a number must not stay in its blocks: they are zeroed unless it is `clean`."""
        self._followers.pop(row, None)
        if self._job_of.pop(row, None) is not None:
            blocks = self._schedule.drop(row)
            if blocks and not clean:
                self._packed.clear(blocks)

    def _fail(self, job: RowJob, error: ServiceError) -> None:
        self._post(job, Event(0, error=error))
        for row in self._rows.pop(job, ()):
            self._leave(row, clean=False)

    def _step(self) -> None:
        start = time.perf_counter()
        turns = self._schedule.plan()
        if doubtful := self._schedule.doubtful:
            self._packed.clear(doubtful)
            doubtful.clear()
        self._metrics.load(len(self._schedule.running), len(self._schedule.waiting), self._schedule.preemptions)
        pool = self._packed.pool
        self._metrics.cache((pool.blocks - pool.free) * BLOCK, pool.kept * BLOCK, (pool.free - pool.kept) * BLOCK)
        if not turns:
            return
        self._note(turns, start)
        try:
            self._compute(turns, start)
        except Interrupted:
            self._interrupted(turns, time.perf_counter() - start)
        except Exception as error:  # noqa: BLE001 - the edge of a step: its rows fail, the worker goes on
            self._failed(turns, error)

    def _note(self, turns: Sequence[Turn], now: float) -> None:
        self._metrics.batch(len(turns))
        for turn in turns:
            if not turn.row.begun:
                turn.row.begun = True
                self._metrics.began(now - turn.row.came, turn.row.cached)

    def _interrupted(self, turns: Sequence[Turn], seconds: float) -> None:
        """Nothing of the step counts."""
        for turn in turns:
            turn.row.doubtful = True
        self._interruptions.lost(seconds)
        self._metrics.interrupted(seconds)

    def _between(self, turns: Sequence[Turn]) -> Callable[[float], None] | None:
        """What gives the step up when somebody comes who must not wait for it; none when nobody could."""
        worst = max(turn.row.priority for turn in turns)
        attached = any(turn.row.plan.attachments for turn in turns)  # they would see some layers twice
        if worst == 0 or attached or self._schedule.full or not self._interruptions.allowed:
            return None

        def between(done: float) -> None:
            if worthwhile(done) and any(job.work[0].priority < worst for job in self._arrived()):
                raise Interrupted

        return between

    def _failed(self, turns: Sequence[Turn], error: Exception) -> None:
        _log.exception("step failed", extra={"rows": len(turns)})
        told: ServiceError = InternalError("the engine failed while it computed this request", detail=repr(error))
        if memory.was_too_little(error):
            told = EngineOutOfMemory("the engine's memory did not suffice for this request")
            if self._packed.device.type == "cuda":
                torch.cuda.empty_cache()
        for job in {self._job_of[turn.row] for turn in turns if turn.row in self._job_of}:
            self._fail(job, told)

    def _compute(self, turns: Sequence[Turn], start: float) -> None:
        step = self._step_of(turns)
        prompt, made = sum(turn.of_prompt for turn in turns), sum(turn.chooses for turn in turns)
        planned = time.perf_counter()
        logits = self._packed.run(step, self._between(turns))
        computed = time.perf_counter()
        self._interruptions.computed(computed - planned)
        for turn in turns:
            turn.row.computed = turn.span.end
            turn.row.doubtful = turn.row.doubtful and not turn.last
        self._score(turns, logits)
        self._choose([turn for turn in turns if turn.chooses], logits)
        for turn in turns:
            if turn.last and turn.row.plan.max_tokens == 0:
                self._close(turn.row, logits[turn.keep[-1]])
        ended = time.perf_counter()
        self._metrics.step(prompt, made, planned - start, computed - planned, ended - computed)
        self.pace.step(prompt, made, ended - start)

    def _step_of(self, turns: Sequence[Turn]) -> Step:
        kept = self._kept(turns)
        inserts: list[Insert] = []
        attached = []
        adapted: list[Adapted] = []
        first = 0
        for turn in turns:
            plan, start, end = turn.row.plan, turn.span.start, turn.span.end
            found = [insert.within(start, end, first - start) for insert in plan.inserts]
            inserts += [insert for insert in found if insert is not None]
            attached += [(one, _part(turn, first)) for one in plan.attachments]
            adapted += [] if plan.adapter is None else [Adapted(plan.adapter, first, first + end - start)]
            first += end - start
        tokens = [token for turn in turns for token in turn.tokens]
        decode = turns[0].fixed and first == len(turns)
        rows = (self._packed.fixed_rows if decode else first) if turns[0].fixed else 0
        return Step(tokens, [turn.span for turn in turns], kept, inserts, attached, rows, adapted)

    def _kept(self, turns: Sequence[Turn]) -> list[int]:
        """Choose the places of the batch whose logits are wanted; each turn notes where its own will be."""
        kept: list[int] = []
        first = 0
        for turn in turns:
            places = [first + at - turn.span.start for at in turn.row.kept(turn.span)]
            turn.keep = list(range(len(kept), len(kept) + len(places)))
            kept += places
            first += turn.span.count
        return kept

    def _score(self, turns: Sequence[Turn], logits: Tensor) -> None:
        for turn in turns:
            row = turn.row
            if positions := row.scores(turn.span):
                following = row.tokens[positions.start + 1 : positions.stop + 1]
                infos = score(logits[turn.keep[: len(positions)]], following, row.plan.score_prompt or 0)
                row.scored += len(positions)
                self._post(self._job_of[row], Event(row.index, prompt=infos))

    def _choose(self, turns: Sequence[Turn], logits: Tensor) -> None:
        if not turns:
            return
        draws = [turn.row.draw() for turn in turns]
        places = [turn.keep[-1] for turn in turns]
        sample(logits if len(places) == logits.shape[0] else logits[places], draws)
        for turn, draw in zip(turns, draws, strict=True):
            self._advance(turn.row, draw)

    def _advance(self, row: Row, draw: Draw) -> None:
        if row not in self._job_of:  # its job has failed in this very step
            return
        try:
            if draw.error is not None:
                raise draw.error
            event = row.take(draw.info)
        except ServiceError as error:
            self._fail(self._job_of[row], error)
            return
        self._schedule.publish(row)  # not earlier: now its numbers are known to be numbers
        for follower in self._followers.pop(row, ()):
            self._schedule.add(follower)
        if event is not None:
            self._tell(row, event)

    def _close(self, row: Row, logits: Tensor) -> None:
        """End a row that wants no answer; what it has left in its blocks must be numbers all the same."""
        if row not in self._job_of:
            return
        if logits.amax().isfinite():
            self._tell(row, Event(row.index, finish=Finish.LENGTH, cached=row.cached))
        else:
            self._fail(self._job_of[row], not_a_number())

    def _tell(self, row: Row, event: Event) -> None:
        job = self._job_of[row]
        self._post(job, event)
        if event.finish is not None:
            self._leave(row, clean=True)
            if not any(other in self._job_of for other in self._rows[job]):
                del self._rows[job]


def _part(turn: Turn, first: int) -> Part:
    """The part of a row whose tokens begin at place `first` of the step."""
    span, row = turn.span, turn.row
    logits = range(turn.keep[0], turn.keep[-1] + 1) if turn.keep else range(0)
    return Part(first, first + span.count, span.start, row.tokens, logits, row.kept(span) if logits else ())


def _worth_waiting(row: Row) -> bool:
    """True when a row can take over blocks of another one with the same prompt."""
    return row.digests is not None and len(row.plan.prompt) > BLOCK and row.plan.max_tokens > 0 and not row.unscored

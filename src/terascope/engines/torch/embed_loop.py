"""The embedding loop: texts of all requests in batches of so many tokens; the requests take turns."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from terascope.core.errors import EngineNan, EngineOutOfMemory, InternalError, ServiceError
from terascope.engines.torch import memory
from terascope.engines.torch.batching import Padded
from terascope.engines.torch.encoder import Encoder
from terascope.engines.torch.jobs import ComputeThread, Job
from terascope.engines.torch.pace import Pace
from terascope.engines.torch.pooling import Ask
from terascope.engines.torch.precedence import Precedence
from terascope.engines.worker.metrics import Metrics

_log = logging.getLogger(__name__)
_LOOK_AHEAD = 256  # waiting texts among which those of like length are sought, where they are filled up
_STEP_TOKENS = 1024  # a CPU gains hardly anything by more, and a new request would wait longer
_GPU_STEP_TOKENS = 8192
_PATIENCE = 3  # batches that begin with texts of better priority, before one that begins with others


@dataclass(frozen=True, slots=True)
class Vector:
    """What was asked for of one text of a job; with `error` the whole job is over."""

    index: int
    values: Tensor | None = None
    error: ServiceError | None = None


@dataclass(frozen=True, slots=True)
class TextPlan:
    """A text to be embedded, as it was admitted. Texts of smaller `priority` (0 urgent to 2 batch) go first.

    Without an `ask` the model's own way is meant. Nothing is normalized here.
    """

    tokens: Sequence[int]
    priority: int = 1
    ask: Ask | None = None


TextJob = Job[TextPlan, Vector]


@dataclass(frozen=True, slots=True, eq=False)
class _Text:
    job: TextJob
    index: int
    plan: TextPlan
    turn: int

    @property
    def tokens(self) -> Sequence[int]:
        return self.plan.tokens


class EmbedLoop(ComputeThread[TextPlan, Vector]):
    """Computes all jobs' texts in batches.

    Jobs of better priority go first, but of four batches one begins with the others. Jobs of one priority take turns,
    a text of each job in a round. A new job joins at the end of the next round, so it waits for about two texts of
    every other job, however many those have; and none waits forever, however many come.
    """

    def __init__(
        self,
        encoder: Encoder,
        loop: asyncio.AbstractEventLoop,
        crashed: Callable[[BaseException], None],
        metrics: Metrics,
        *,
        max_batch: int = 32,
        step_tokens: int = 0,
    ) -> None:
        """See `ComputeThread`.

        A batch has texts of at most `max_batch` jobs, and at most `step_tokens` tokens: the texts' own where the
        encoder packs them, else as many as there are after filling up. A longer text is a batch by itself. With
        `step_tokens` 0 it is what suits the device.
        """
        super().__init__("embed-loop", loop, crashed)
        self._encoder = encoder
        self._metrics = metrics
        self.pace = Pace()
        self._max_batch = max_batch
        on_gpu = encoder.module.device.type == "cuda"
        self._step_tokens = step_tokens or (_GPU_STEP_TOKENS if on_gpu else _STEP_TOKENS)
        self._waiting: list[_Text] = []  # in the order of their turns
        self._precedence = Precedence(_PATIENCE)

    def _jobs(self) -> Sequence[TextJob]:
        return tuple({text.job: None for text in self._waiting})

    def _begin(self, job: TextJob) -> None:
        equals = (text.turn for text in self._waiting if text.plan.priority == job.work[0].priority)
        first = next(equals, -1) + 1
        self._waiting += [_Text(job, index, plan, first + index) for index, plan in enumerate(job.work)]
        self._waiting.sort(key=lambda text: text.turn)

    def _end(self, job: TextJob) -> None:
        self._waiting = [text for text in self._waiting if text.job is not job]

    def _fail(self, job: TextJob, error: ServiceError) -> None:
        self._post(job, Vector(0, error=error))
        self._end(job)

    def _step(self) -> None:
        if not self._waiting:
            return
        start = time.perf_counter()
        batch = self._batch()
        taken = set(batch)
        self._waiting = [text for text in self._waiting if text not in taken]
        self._metrics.load(len(batch), len(self._waiting), 0)
        try:
            asks = [text.plan.ask or self._encoder.ask for text in batch]
            vectors = self._encoder.pooled([text.tokens for text in batch], asks)
        except Exception as error:  # noqa: BLE001 - the edge of a step: its texts fail, the worker goes on
            self._failed(batch, error)
        else:
            self._tell(batch, vectors)
            tokens, seconds = sum(len(text.tokens) for text in batch), time.perf_counter() - start
            self._metrics.step(tokens, 0, 0, seconds, 0)
            self.pace.step(tokens, 0, seconds)
        self._metrics.load(0, len(self._waiting), 0)

    def _batch(self) -> list[_Text]:
        """The texts whose turn it is, as many as fit; where texts are filled up, those of like priority and length."""
        texts, padded = self._in_order(), isinstance(self._encoder.batching, Padded)
        if padded:
            first = texts[0]
            like = [text for text in texts[:_LOOK_AHEAD] if text.plan.priority == first.plan.priority]
            texts = sorted(like, key=lambda text: abs(len(text.tokens) - len(first.tokens)))
        batch: list[_Text] = []
        jobs: set[TextJob] = set()
        tokens = longest = 0
        for text in texts:
            jobs.add(text.job)
            tokens += len(text.tokens)
            longest = max(longest, len(text.tokens))
            size = longest * (len(batch) + 1) if padded else tokens
            if batch and (size > self._step_tokens or len(jobs) > self._max_batch):
                break
            batch.append(text)
        return batch

    def _in_order(self) -> list[_Text]:
        """The texts that wait, those of the priority whose turn it is first."""
        waiting = {text.plan.priority for text in self._waiting}
        lead = self._precedence.first(waiting)
        self._precedence.took(lead, waiting)
        return sorted(self._waiting, key=lambda text: (text.plan.priority != lead, text.plan.priority))

    def _tell(self, batch: Sequence[_Text], vectors: Sequence[Tensor]) -> None:
        for text, vector in zip(batch, vectors, strict=True):
            if vector.isfinite().all():
                self._post(text.job, Vector(text.index, vector))
            else:
                self._fail(text.job, EngineNan("the model computed something that is not a number for this text"))

    def _failed(self, batch: Sequence[_Text], error: Exception) -> None:
        _log.error("step failed", exc_info=error)
        told: ServiceError = InternalError("the engine failed while it computed this request", detail=repr(error))
        if memory.was_too_little(error):
            told = EngineOutOfMemory("the engine's memory did not suffice for this request")
            if self._encoder.module.device.type == "cuda":
                torch.cuda.empty_cache()
        for job in {text.job for text in batch}:
            self._fail(job, told)

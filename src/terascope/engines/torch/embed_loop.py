"""The embedding loop: texts of all requests, those of like length together."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from terascope.core.errors import EngineNan, EngineOutOfMemory, InternalError, ServiceError
from terascope.engines.torch import memory
from terascope.engines.torch.encoder import Encoder
from terascope.engines.torch.jobs import ComputeThread, Job
from terascope.engines.torch.metrics import Metrics

_log = logging.getLogger(__name__)
_LOOK_AHEAD = 256  # waiting texts among which those of like length are sought


@dataclass(frozen=True, slots=True)
class Vector:
    """The vector of one text of a job; with `error` the whole job is over."""

    index: int
    values: Tensor | None = None
    error: ServiceError | None = None


Tokens = Sequence[int]
TextJob = Job[Tokens, Vector]


@dataclass(frozen=True, slots=True, eq=False)
class _Text:
    job: TextJob
    index: int
    tokens: Tokens


class EmbedLoop(ComputeThread[Tokens, Vector]):
    """Computes all jobs' texts in batches."""

    def __init__(
        self,
        encoder: Encoder,
        loop: asyncio.AbstractEventLoop,
        crashed: Callable[[BaseException], None],
        metrics: Metrics,
        *,
        max_batch: int = 32,
        step_tokens: int = 4096,
    ) -> None:
        """See `ComputeThread`. At most `max_batch` texts and `step_tokens` tokens, filled up, make a batch."""
        super().__init__("embed-loop", loop, crashed)
        self._encoder = encoder
        self._metrics = metrics
        self._max_batch = max_batch
        self._step_tokens = step_tokens
        self._waiting: list[_Text] = []

    def _jobs(self) -> Sequence[TextJob]:
        return tuple({text.job: None for text in self._waiting})

    def _begin(self, job: TextJob) -> None:
        self._waiting += [_Text(job, index, tokens) for index, tokens in enumerate(job.work)]

    def _end(self, job: TextJob) -> None:
        self._waiting = [text for text in self._waiting if text.job is not job]

    def _fail(self, job: TextJob, error: ServiceError) -> None:
        self._post(job, Vector(0, error=error))
        self._end(job)

    def _step(self) -> None:
        self._metrics.load(0, len(self._waiting), 0)
        if not self._waiting:
            return
        start = time.perf_counter()
        batch = self._batch()
        taken = set(map(id, batch))
        self._waiting = [text for text in self._waiting if id(text) not in taken]
        try:
            vectors = self._encoder.embed([text.tokens for text in batch])
        except Exception as error:  # noqa: BLE001 - the edge of a step: its texts fail, the worker goes on
            self._failed(batch, error)
            return
        self._tell(batch, vectors)
        self._metrics.step(sum(len(text.tokens) for text in batch), 0, 0, time.perf_counter() - start, 0)

    def _batch(self) -> list[_Text]:
        """The oldest text and those nearest to it in length, as many as fit."""
        oldest = len(self._waiting[0].tokens)
        near = sorted(self._waiting[:_LOOK_AHEAD], key=lambda text: abs(len(text.tokens) - oldest))
        batch: list[_Text] = []
        longest = 0
        for text in near[: self._max_batch]:
            longest = max(longest, len(text.tokens))
            if batch and longest * (len(batch) + 1) > self._step_tokens:
                break
            batch.append(text)
        return batch

    def _tell(self, batch: Sequence[_Text], vectors: Tensor) -> None:
        finite = vectors.isfinite().all(-1).tolist()
        for text, vector, fine in zip(batch, vectors, finite, strict=True):
            if fine:
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

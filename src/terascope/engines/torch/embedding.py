"""`/v1/embeddings` of any model: its vectors computed in batches, given whole or as a stream."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from aiohttp import web
from torch import Tensor

from terascope.core.errors import EngineNan
from terascope.engines.torch.embed_loop import EmbedLoop, TextJob, TextPlan
from terascope.engines.torch.gathering import Gatherer
from terascope.engines.torch.intake import Terms
from terascope.engines.torch.jobs import Job
from terascope.engines.torch.loop import BatchLoop, RowJob
from terascope.engines.torch.packed import PackedModel
from terascope.engines.torch.pooling import Ask
from terascope.engines.torch.rows import RowPlan
from terascope.engines.torch.sampling import Sampling
from terascope.engines.torch.vectors import MOST_INPUTS, EmbeddingIntake, EmbeddingOrder, VectorModel, item, usage
from terascope.engines.torch.windows import Piece
from terascope.engines.worker.httpd import REQUEST_ID
from terascope.engines.worker.replies import (
    applied,
    event_stream,
    id_header,
    ignored,
    json_event,
    json_reply,
    send_events,
)
from terascope.protocol.openai import EmbeddingRequest
from terascope.protocol.sse import DONE

_AT_ONCE = 256  # inputs of a stream that are computed for one event


class Computer(Protocol):
    """Computes the pooled states of lists of tokens."""

    async def compute(self, request_id: str, rows: Sequence[Sequence[int]], ask: Ask, priority: int) -> list[Tensor]:
        """Return what `ask` asks for of each of `rows`, float32 on the CPU: [width], or [tokens, width] of each token.

        Raises `ServiceError`. On cancellation nothing more is computed for it.
        """
        ...


class TextComputer:
    """An embedding model's."""

    def __init__(self, loop: EmbedLoop) -> None:
        self._loop = loop

    async def compute(self, request_id: str, rows: Sequence[Sequence[int]], ask: Ask, priority: int) -> list[Tensor]:
        job: TextJob = Job(request_id, [TextPlan(one, priority, ask) for one in rows])
        found: dict[int, Tensor] = {}
        self._loop.submit(job)
        try:
            while len(found) < len(rows):
                vector = await job.news.get()
                if vector.error is not None:
                    raise vector.error
                if vector.values is not None:
                    found[vector.index] = vector.values
        finally:
            self._loop.cancel(job)
        return [found[index] for index in range(len(rows))]


class RowComputer:
    """A language model's: each list is a row of the running batch that makes no answer."""

    def __init__(self, packed: PackedModel, loop: BatchLoop) -> None:
        self._packed = packed
        self._loop = loop

    async def compute(self, request_id: str, rows: Sequence[Sequence[int]], ask: Ask, priority: int) -> list[Tensor]:
        gatherers = [Gatherer(self._packed, ask) for _ in rows]
        plans = [
            RowPlan(one, Sampling(), 0, attachments=(gatherer,), priority=priority)
            for one, gatherer in zip(rows, gatherers, strict=True)
        ]
        job: RowJob = Job(request_id, plans)
        left = len(rows)
        self._loop.submit(job)
        try:
            while left:
                news = await job.news.get()
                if news.error is not None:
                    raise news.error
                left -= news.finish is not None
        finally:
            self._loop.cancel(job)
        found = [one.vector() for one in gatherers]
        if not all(one.isfinite().all() for one in found):
            raise EngineNan("the model computed something that is not a number for an input")
        return found


class Embeddings:
    """Answers requests for the vectors of one model."""

    def __init__(self, served_name: str, model: VectorModel, computer: Computer) -> None:
        self._served_name = served_name
        self._intake = EmbeddingIntake(model)
        self._computer = computer

    async def answer(self, request: web.Request, asked: EmbeddingRequest) -> web.StreamResponse:
        """Answer `asked`, the body of `request`. Raises `ServiceError` as long as nothing was sent."""
        order = await asyncio.to_thread(self._intake.read, asked)
        headers = id_header(request) | applied(order.applied()) | ignored(asked)
        size = _AT_ONCE if asked.stream else MOST_INPUTS
        priority = Terms.read(request.headers).priority
        async with aclosing(self._parts(request[REQUEST_ID], order, size, priority)) as parts:
            first = await anext(parts)  # an error before the first vector is an answer with its own status
            if not asked.stream:
                return json_reply(first, headers)
            events = (json_event(part) async for part in parts)
            return await send_events(request, event_stream(headers), json_event(first), events, lambda: DONE)

    async def _parts(
        self, request_id: str, order: EmbeddingOrder, size: int, priority: int
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The vectors of `size` inputs after the other, with the usage so far; the next are read meanwhile."""
        count, tokens = len(order.inputs), 0
        reading = asyncio.ensure_future(asyncio.to_thread(self._read, order, 0, size))
        try:
            for first in range(0, count, size):
                pieces = await reading
                if first + size < count:
                    reading = asyncio.ensure_future(asyncio.to_thread(self._read, order, first + size, size))
                rows = [piece.tokens for one in pieces for piece in one]
                vectors = await self._computer.compute(request_id, rows, order.ask, priority)
                data = await asyncio.to_thread(_items, order, first, pieces, vectors)
                tokens += usage(pieces)
                told = {"prompt_tokens": tokens, "total_tokens": tokens}
                yield {"object": "list", "data": data, "model": self._served_name, "usage": told}
        finally:
            reading.cancel()

    def _read(self, order: EmbeddingOrder, first: int, size: int) -> list[list[Piece]]:
        last = min(first + size, len(order.inputs))
        return [self._intake.pieces(order, index) for index in range(first, last)]


def _items(
    order: EmbeddingOrder, first: int, pieces: Sequence[Sequence[Piece]], vectors: Sequence[Tensor]
) -> list[dict[str, Any]]:
    found, at = [], 0
    for index, one in enumerate(pieces, first):
        found.append(item(order, index, one, vectors[at : at + len(one)]))
        at += len(one)
    return found

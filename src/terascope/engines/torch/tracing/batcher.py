"""Rows of several calls that are computed in batches of their own, between the steps of the running batch."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from terascope.core.errors import ServiceError

Item = TypeVar("Item")
Result = TypeVar("Result")


class Between(Protocol):
    """A thread that computes; see `ComputeThread`."""

    async def between_steps(self, work: Callable[[], Result]) -> Result:
        """Return what `work` returns, done between two steps."""
        ...


@dataclass(eq=False, slots=True)
class _Waiting(Generic[Item]):
    item: Item
    done: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batcher(Generic[Item]):
    """Computes items in batches. For one event loop."""

    def __init__(
        self,
        thread: Between,
        compute: Callable[[Sequence[Item]], None],
        tokens: Callable[[Item], int],
        most: int,
    ) -> None:
        """`compute` does a batch, in `thread`; a batch has at most `most` tokens, or one item."""
        self._thread, self._compute, self._tokens, self._most = thread, compute, tokens, most
        self._waiting: deque[_Waiting[Item]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def run(self, items: Sequence[Item]) -> None:
        """Return when all of `items` have been computed; raise what computing one of them raised.

        Items of a batch that fails are computed again one by one, so that each has its own error only. On cancellation
        those that have not begun are dropped.
        """
        mine = [_Waiting(item) for item in items]
        self._waiting.extend(mine)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        try:
            await asyncio.gather(*(one.done for one in mine))
        finally:
            for one in mine:
                one.done.cancel()
            self._waiting = deque(one for one in self._waiting if not one.done.done())

    async def _work(self) -> None:
        while self._waiting:
            batch = self._batch()
            try:
                await self._together(batch)
            except ServiceError as error:
                if len(batch) == 1:
                    _end(batch[0], error)
                else:
                    await self._apart(batch)

    async def _together(self, batch: Sequence[_Waiting[Item]]) -> None:
        items = [one.item for one in batch]
        await self._thread.between_steps(lambda: self._compute(items))
        for one in batch:
            _end(one, None)

    async def _apart(self, batch: Sequence[_Waiting[Item]]) -> None:
        for one in batch:
            try:
                await self._together([one])
            except ServiceError as error:
                _end(one, error)

    def _batch(self) -> list[_Waiting[Item]]:
        batch = [self._waiting.popleft()]
        room = self._most - self._tokens(batch[0].item)
        while self._waiting and self._tokens(self._waiting[0].item) <= room:
            room -= self._tokens(self._waiting[0].item)
            batch.append(self._waiting.popleft())
        return batch


def _end(one: _Waiting[Item], error: ServiceError | None) -> None:
    if one.done.done():
        return
    if error is None:
        one.done.set_result(None)
    else:
        one.done.set_exception(error)

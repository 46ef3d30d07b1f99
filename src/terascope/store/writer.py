"""Group commit: one thread writes, and everything that waits is committed together.

A commit costs about the same for one change as for a hundred, so changes that arrive while a commit runs share
the next one (DeWitt et al., "Implementation techniques for main memory database systems", SIGMOD 1984).
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Engine

Change = Callable[[Connection, Sequence[Any]], Sequence[Any] | None]
"""Applies several arguments in one go and returns one result for each, or None."""


@dataclass(slots=True, eq=False)
class _Waiting:
    change: Change
    argument: Any
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class GroupWriter:
    """Applies changes in the order they were submitted, many to a transaction."""

    def __init__(self, engine: Engine, *, most: int = 1000) -> None:
        self._engine = engine
        self._most = most
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="terascope-writer", daemon=True)
        self._closed = False

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    async def submit(self, change: Change, argument: Any) -> Any:
        """Apply `change` to `argument`; return its result once it is durable.

        Raises what `change` raises; then nothing of it is kept, and changes beside it are not harmed. On
        cancellation the change may or may not be applied.
        """
        if self._closed:
            raise RuntimeError("the writer is closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._queue.put(_Waiting(change, argument, future, loop))
        return await future

    async def aclose(self) -> None:
        """Apply what waits, then end the thread. Idempotent."""
        if self._closed or not self._thread.is_alive():
            self._closed = True
            return
        self._closed = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        with self._engine.connect() as connection:
            ending = False
            while not ending:
                batch, ending = self._take()
                if batch:
                    self._commit(connection, batch)

    def _take(self) -> tuple[list[_Waiting], bool]:
        batch: list[_Waiting] = []
        item = self._queue.get()
        while item is not None:
            batch.append(item)
            if len(batch) >= self._most:
                return batch, False
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

    def _commit(self, connection: Connection, batch: list[_Waiting]) -> None:
        try:
            with connection.begin():
                results = _apply(connection, batch)
        except Exception as error:  # noqa: BLE001 - the thread is an edge: the reason goes to whoever waits
            if len(batch) == 1:
                _finish(batch, [error])
            else:
                for one in batch:  # one of them is to blame: each on its own, so that the others go through
                    self._commit(connection, [one])
        else:
            _finish(batch, results)


def _apply(connection: Connection, batch: list[_Waiting]) -> list[Any]:
    results: list[Any] = []
    for change, group in groupby(batch, key=lambda one: one.change):
        arguments = [one.argument for one in group]
        results.extend(change(connection, arguments) or [None] * len(arguments))
    return results


def _finish(batch: list[_Waiting], results: list[Any]) -> None:
    for loop, pairs in groupby(zip(batch, results, strict=True), key=lambda pair: pair[0].loop):
        loop.call_soon_threadsafe(_resolve, list(pairs))


def _resolve(pairs: list[tuple[_Waiting, Any]]) -> None:
    for one, result in pairs:
        if one.future.done():
            continue
        if isinstance(result, Exception):
            one.future.set_exception(result)
        else:
            one.future.set_result(result)

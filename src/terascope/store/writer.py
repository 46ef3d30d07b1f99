"""Group commit: everything that waits is committed together.

A commit costs about the same for one change as for a hundred, so changes that arrive together share one
(DeWitt et al., "Implementation techniques for main memory database systems", SIGMOD 1984). Where a commit waits
for a disk, a thread does it; where it waits for a server, the event loop awaits it; where it only copies a few
kilobytes into SQLite's log, it is done in the event loop at once (docs/decisions/0004-group-commit.md).
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncEngine

Change = Callable[[Connection, Sequence[Any]], Sequence[Any] | None]
"""Applies several arguments in one go and returns one result for each, or None."""

_MOST = 1000  # changes in one transaction
_LINGER_S = 1.0
_LONGEST_S = 0.002  # a change waits for company
_ALONE_S = 0.0005  # without another change for so long, one is not kept waiting for company


class Writer(Protocol):
    """Applies changes in the order they were submitted, many to a transaction."""

    async def submit(self, change: Change, argument: Any) -> Any:
        """Apply `change` to `argument`; return its result once it is durable.

        Raises what `change` raises; then nothing of it is kept, and changes beside it are not harmed. On
        cancellation the change may or may not be applied.
        """
        ...

    async def aclose(self) -> None:
        """Apply what waits, then end. Idempotent; a later `submit` raises `RuntimeError`."""
        ...


@dataclass(slots=True, eq=False)
class _Waiting:
    change: Change
    argument: Any
    future: asyncio.Future[Any]


class LoopWriter:
    """Commits in the event loop: at once what comes alone in its millisecond, else when a turn brings nothing more.

    A commit holds the loop up, so what comes meanwhile is met in the next turns, and is worth waiting for; `_LONGEST_S`
    bounds that wait.
    """

    def __init__(self, engine: Engine, after_commit: Callable[[], None]) -> None:
        self._connection = engine.connect()
        self._after_commit = after_commit
        self._waiting: list[_Waiting] = []
        self._last = -1.0  # the loop's time of the last submission
        self._closed = False

    async def submit(self, change: Change, argument: Any) -> Any:
        _refuse_if(self._closed)
        loop = asyncio.get_running_loop()
        last, self._last = self._last, loop.time()
        if not self._waiting:
            if self._last - last > _ALONE_S:
                return self._commit_one(_Waiting(change, argument, loop.create_future()))
            loop.call_soon(self._flush_when_quiet, 0, self._last + _LONGEST_S)
        one = _Waiting(change, argument, loop.create_future())
        self._waiting.append(one)
        return await one.future

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._flush()
            self._connection.close()

    def _commit_one(self, one: _Waiting) -> Any:
        [(_, result)] = _commit(self._connection, [one])
        self._after_commit()
        if isinstance(result, Exception):
            raise result
        return result

    def _flush_when_quiet(self, seen: int, latest: float) -> None:
        """Commit once a turn of the loop has brought nothing beside the `seen` that waited before, or at `latest`."""
        loop, now_waiting = asyncio.get_running_loop(), len(self._waiting)
        if seen < now_waiting < _MOST and loop.time() < latest:
            loop.call_soon(self._flush_when_quiet, now_waiting, latest)
        else:
            self._flush()

    def _flush(self) -> None:
        batch, self._waiting = self._waiting, []
        if batch:
            _resolve(_commit(self._connection, batch))
            self._after_commit()


class ThreadWriter:
    """Commits in a thread of its own; what arrives while a commit runs shares the next."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="terascope-writer", daemon=True)
        self._closed = False
        self._thread.start()

    async def submit(self, change: Change, argument: Any) -> Any:
        _refuse_if(self._closed)
        one = _Waiting(change, argument, self._loop.create_future())
        self._queue.put(one)
        return await one.future

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        with self._engine.connect() as connection:
            ending = False
            while not ending:
                batch, ending = self._take()
                if batch:
                    self._loop.call_soon_threadsafe(_resolve, _commit(connection, batch))

    def _take(self) -> tuple[list[_Waiting], bool]:
        batch: list[_Waiting] = []
        item = self._queue.get()
        while item is not None:
            batch.append(item)
            if len(batch) >= _MOST:
                return batch, False
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True


class ServerWriter:
    """Commits over a connection that is awaited; what arrives while a commit runs shares the next.

    The connection is kept for a moment: to ask the pool for one that lives costs as long as a statement.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._waiting: list[_Waiting] = []
        self._come = asyncio.Event()
        self._working: asyncio.Task[None] | None = None
        self._closed = False

    async def submit(self, change: Change, argument: Any) -> Any:
        _refuse_if(self._closed)
        one = _Waiting(change, argument, asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        self._come.set()
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return await one.future

    async def aclose(self) -> None:
        self._closed = True
        self._come.set()
        if self._working is not None:
            await self._working

    async def _work(self) -> None:
        while self._waiting:  # again when something came while the connection was given back
            batch: list[_Waiting] = []
            try:
                async with self._engine.connect() as connection:
                    while await self._more():
                        batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
                        _resolve(await connection.run_sync(_commit, batch))
            except Exception as error:  # noqa: BLE001 - the writer's edge: without a connection nothing can be written
                batch, self._waiting = batch + self._waiting, []
                _resolve([(one, error) for one in batch])

    async def _more(self) -> bool:
        """Whether there is something to write, now or within a moment."""
        self._come.clear()
        if not self._waiting and not self._closed:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LINGER_S):
                    await self._come.wait()
        return bool(self._waiting)


_Outcome = tuple[_Waiting, Any]


def _refuse_if(closed: bool) -> None:
    if closed:
        raise RuntimeError("the writer is closed")


def _commit(connection: Connection, batch: list[_Waiting]) -> list[_Outcome]:
    try:
        with connection.begin():
            return _apply(connection, batch)
    except Exception as error:  # noqa: BLE001 - the writer's edge: the reason goes to whoever waits
        if len(batch) == 1:
            return [(batch[0], error)]
        # one of them is to blame: each on its own, so that the others go through
        return [outcome for one in batch for outcome in _commit(connection, [one])]


def _apply(connection: Connection, batch: list[_Waiting]) -> list[_Outcome]:
    outcomes: list[_Outcome] = []
    for change, group in groupby(batch, key=lambda one: one.change):
        together = list(group)
        results = change(connection, [one.argument for one in together]) or [None] * len(together)
        outcomes.extend(zip(together, results, strict=True))
    return outcomes


def _resolve(outcomes: list[_Outcome]) -> None:
    for one, result in outcomes:
        if one.future.done():
            continue
        if isinstance(result, Exception):
            one.future.set_exception(result)
        else:
            one.future.set_result(result)

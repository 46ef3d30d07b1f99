"""The collections of this gateway, awaited: called in threads, one change at a time, clean after a crash."""

import asyncio
import errno
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar
from weakref import WeakValueDictionary

from terascope.core.errors import FileLost, ServiceError, StorageFull, StorageUnavailable
from terascope.retrieval.contract import Collection, Collections
from terascope.store.vector_stores import StoreRow

T = TypeVar("T")
_THREADS = 8
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Pool:
    """Opens collections, and has them work in threads."""

    def __init__(self, collections: Collections) -> None:
        self._collections = collections
        self._threads = ThreadPoolExecutor(_THREADS, "collections")
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._open: dict[str, Collection] = {}
        self._clean: set[str] = set()

    def lock(self, store: str) -> asyncio.Lock:
        """What whoever changes a store holds meanwhile."""
        found = self._locks.get(store)
        if found is None:
            found = self._locks[store] = asyncio.Lock()
        return found

    async def to_read(self, row: StoreRow) -> Collection:
        """Return the collection of a store that has vectors.

        Raises `FileLost` when it is not in the data directory, `StorageUnavailable`.
        """
        if row.id not in self._open:
            if row.id not in await self.run(self._collections.names):
                raise FileLost(
                    f"the passages of {row.id} are not in the data directory any more; delete it and make it again"
                )
            self._open[row.id] = await self.run(self._collections.open, row.id, row.width)
        return self._open[row.id]

    async def to_change(self, row: StoreRow, width: int = 0) -> Collection:
        """Return the collection for a change beyond `row.version`, without what an earlier one has left unfinished.

        To be called with the store's lock held, and `changed` after it. It is made when there is none. Raises
        `Conflict` for another width, `StorageUnavailable`.
        """
        if row.width:
            collection = await self.to_read(row)
        else:
            collection = self._open[row.id] = await self.run(self._collections.open, row.id, width)
        if row.id not in self._clean:
            await self.run(collection.undo, row.version)
        self._clean.discard(row.id)
        return collection

    def changed(self, store: str) -> None:
        """The change is complete, and its version the newest."""
        self._clean.add(store)

    async def drop(self, store: str) -> None:
        """Remove a collection with all its versions. Idempotent. Raises `StorageUnavailable`."""
        self._open.pop(store, None)
        self._clean.discard(store)
        await self.run(self._collections.drop, store)

    async def names(self) -> list[str]:
        """The names of all collections in the data directory."""
        return await self.run(self._collections.names)

    async def run(self, call: Callable[..., T], *arguments: object) -> T:
        """Have `call` done in a thread; also on cancellation it is over on return, as a thread cannot be stopped.

        Raises `StorageUnavailable` and `StorageFull` for what the disk and the database say.
        """
        work = asyncio.get_running_loop().run_in_executor(self._threads, lambda: _told(call, arguments))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            with suppress(Exception):
                await work
            raise

    async def aclose(self) -> None:
        """End the threads, once they have done what they do. Idempotent."""
        await asyncio.to_thread(self._threads.shutdown)


def _told(call: Callable[..., T], arguments: tuple[object, ...]) -> T:
    try:
        return call(*arguments)
    except ServiceError:
        raise
    except Exception as error:  # the edge to the database, which raises what it likes
        detail = f"{type(error).__name__}: {error}"
        if getattr(error, "errno", None) in _FULL or "No space left" in detail:
            raise StorageFull("the data directory has no room left for vector stores", detail=detail) from error
        raise StorageUnavailable(
            "the vector stores cannot be used just now; try again", detail=detail, retry_after=30
        ) from error

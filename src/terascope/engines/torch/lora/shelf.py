"""The adapters that are in memory: read when they are asked for, let go of when room is needed for others."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from terascope.core.errors import BadRequest
from terascope.engines.adapter_files import AdapterFiles


class Sized(Protocol):
    """What takes memory."""

    @property
    def nbytes(self) -> int:
        """How much, in bytes."""
        ...


Kept = TypeVar("Kept", bound=Sized)


@dataclass(slots=True)
class _Place(Generic[Kept]):
    """An adapter's place: `users` want it now, `nbytes` are set aside for it, `loading` gives it."""

    loading: "asyncio.Task[Kept]"
    users: int = 0
    nbytes: int = 0


class Shelf(Generic[Kept]):
    """Keeps adapters within a budget. For one event loop.

    An adapter that somebody uses stays; of the others, the one unused longest goes first. Who wants one for which there
    is no room waits until enough of those in use are given back, in the order of asking.
    """

    def __init__(
        self, budget: int, measure: Callable[[AdapterFiles], int], read: Callable[[AdapterFiles], Kept]
    ) -> None:
        """`budget` in bytes. `measure` says how many bytes an adapter will take, `read` reads it; both in a thread."""
        self._budget = budget
        self._measure, self._read = measure, read
        self._places: OrderedDict[str, _Place[Kept]] = OrderedDict()  # the one unused longest first
        self._waiting: deque[object] = deque()
        self._changed = asyncio.Condition()
        self.loads = 0
        self.evictions = 0

    @property
    def nbytes(self) -> int:
        """What is set aside, in bytes."""
        return sum(place.nbytes for place in self._places.values())

    @asynccontextmanager
    async def lease(self, files: AdapterFiles | None) -> AsyncIterator[Kept | None]:
        """Hold an adapter in memory until the block ends; None for none.

        Requests for one adapter share one reading. Raises what `read` and `measure` raise, and `BadRequest` for one
        that is larger than the budget. One that could not be read is tried anew by the next who asks. Cancelled while
        it is read, the reading goes on for those who come later.
        """
        if files is None:
            yield None
            return
        place = self._place(files)
        place.users += 1
        try:
            yield await asyncio.shield(place.loading)
        finally:
            place.users -= 1
            async with self._changed:
                self._changed.notify_all()

    def _place(self, files: AdapterFiles) -> _Place[Kept]:
        place = self._places.get(files.digest)
        if place is None:
            place = _Place(asyncio.create_task(self._load(files)))
            self._places[files.digest] = place
            place.loading.add_done_callback(lambda done: self._loaded(files.digest, done))
        self._places.move_to_end(files.digest)
        return place

    async def _load(self, files: AdapterFiles) -> Kept:
        nbytes = await asyncio.to_thread(self._measure, files)
        if nbytes > self._budget:
            raise BadRequest(
                f"the adapter {files.name} takes {_mib(nbytes)} MiB, but all adapters together may take "
                f"{_mib(self._budget)}; ask an operator to set adapter_mib higher",
                param="model",
            )
        await self._wait_for_room(files.digest, nbytes)
        self.loads += 1
        return await asyncio.to_thread(self._read, files)

    async def _wait_for_room(self, digest: str, nbytes: int) -> None:
        me = object()
        self._waiting.append(me)
        try:
            async with self._changed:
                await self._changed.wait_for(lambda: self._waiting[0] is me and self._make_room(nbytes))
                self._places[digest].nbytes = nbytes
        finally:
            self._waiting.remove(me)
            async with self._changed:
                self._changed.notify_all()

    def _make_room(self, nbytes: int) -> bool:
        """Let go of adapters until there are `nbytes` bytes; false, with nothing done, when those in use leave less."""
        idle = [digest for digest, place in self._places.items() if place.loading.done() and not place.users]
        missing = self.nbytes + nbytes - self._budget
        if missing > sum(self._places[digest].nbytes for digest in idle):
            return False
        for digest in idle:
            if missing <= 0:
                break
            missing -= self._places.pop(digest).nbytes
            self.evictions += 1
        return True

    def _loaded(self, digest: str, done: "asyncio.Task[Kept]") -> None:
        if done.cancelled() or done.exception() is not None:
            self._places.pop(digest, None)


def _mib(nbytes: int) -> str:
    return f"{nbytes / 2**20:.1f}"

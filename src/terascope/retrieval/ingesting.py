"""Bringing files into vector stores: a few stores at once, the files of one in order, several in one version.

What is to be done is in the database, so a start goes on where a crash was. A file is in a store's newest version as a
whole or not at all: its passages come first, for a version that nobody sees until the database names it.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from terascope.access.access import Access
from terascope.access.principal import Principal
from terascope.catalog.catalog import Catalog
from terascope.core.clock import Clock
from terascope.core.config import RetrievalConfig
from terascope.core.errors import BadRequest, NotAllowed, RateLimited, ServiceError
from terascope.core.models import Mode
from terascope.core.projects import Qos
from terascope.core.states import Ingestion
from terascope.retrieval.contract import Placed
from terascope.retrieval.cutting import Cut, Cutter
from terascope.retrieval.embedding import Caller, Embedder
from terascope.retrieval.pool import Pool
from terascope.retrieval.reading import Unreadable
from terascope.store.vector_store_files import EntryRow, Step, VectorStoreFileStore
from terascope.store.vector_stores import StoreRow, VectorStoreStore, newer

log = logging.getLogger(__name__)
_FILES_AT_ONCE = 32
_PASSAGES_AT_ONCE = 512
_TRIES = 6
_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class Ready:
    """A file with the vectors of its passages."""

    cut: Cut
    vectors: tuple[bytes, ...]

    @property
    def usage(self) -> int:
        """Bytes of text and vectors."""
        return sum(len(one.text.encode()) for one in self.cut.passages) + sum(map(len, self.vectors))

    @property
    def placed(self) -> list[Placed]:
        """Passages and vectors together."""
        return [Placed(*one) for one in zip(self.cut.passages, self.vectors, strict=True)]


class Ingester:
    """Works on what stores wait for, in tasks of its own."""

    def __init__(
        self,
        stores: VectorStoreStore,
        entries: VectorStoreFileStore,
        pool: Pool,
        cutter: Cutter,
        embedder: Embedder,
        access: Access,
        catalog: Catalog,
        config: RetrievalConfig,
        clock: Clock,
    ) -> None:
        self._stores = stores
        self._entries = entries
        self._pool = pool
        self._cutter = cutter
        self._embedder = embedder
        self._access = access
        self._catalog = catalog
        self._most_project_bytes = config.max_project_bytes
        self._clock = clock
        self._turn = asyncio.Semaphore(max(1, config.concurrent))
        self._wanted: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._logins: dict[str, Principal] = {}

    def start(self, store: str, who: Principal | None = None) -> None:
        """Work on what a store waits for, some of it asked for by `who`; returns at once.

        A key is looked at again before it is used; somebody with a token of an issuer is remembered, for as long as the
        gateway runs.
        """
        if who is not None and not who.is_key:
            self._logins[who.key_id] = who
        self._wanted.add(store)
        if store not in self._tasks:
            self._tasks[store] = asyncio.create_task(self._work(store))

    async def settled(self, store: str) -> None:
        """Return when nothing is left to do for a store."""
        while (task := self._tasks.get(store)) is not None:
            await asyncio.wait([task])

    async def resume(self) -> None:
        """Go on with what was not finished when the gateway ended."""
        for store in await self._entries.unfinished():
            self.start(store)

    async def aclose(self) -> None:
        """Stop; what is not finished is so when the next gateway starts. Idempotent."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, store: str) -> None:
        try:
            while store in self._wanted:
                self._wanted.discard(store)
                while waiting := await self._entries.waiting(store, _FILES_AT_ONCE):
                    async with self._turn:
                        await self._some(store, waiting)
        finally:
            del self._tasks[store]

    async def _some(self, store: str, waiting: Sequence[EntryRow]) -> None:
        """Settle at least one file that waits."""
        together = [one for one in waiting if one.key_id == waiting[0].key_id]
        try:
            row = await self._stores.get(store)
            if row is not None:
                await self._group(row, together)
        except ServiceError as error:
            log.warning("files of %s failed: %s", store, error.detail or error.code)
            await self._fail(together, error.message)
        except Exception:  # the edge of a task: the files say that they failed, and the next ones are looked at
            log.exception("files of %s failed", store)
            await self._fail(together, "something went wrong here; the log has the reason")

    async def _group(self, row: StoreRow, waiting: Sequence[EntryRow]) -> None:
        caller = await self._caller(row, waiting[0].key_id)
        cuts: list[Cut] = []
        for entry in waiting:
            if (cut := await self._cut(row, entry, caller)) is not None:
                cuts.append(cut)
            if sum(len(one.passages) for one in cuts) >= _PASSAGES_AT_ONCE:
                break
        await self._commit(row, await self._ready(row, cuts, caller))

    async def _caller(self, row: StoreRow, key_id: str) -> Caller:
        """For whom models are asked: with the lowest QOS that the project has for the model."""
        who = self._logins.get(key_id) or await self._access.again(key_id)
        project = await self._access.projects.for_use(who, row.project)
        try:
            project.check(self._catalog.resolve(row.model), Mode.EMBED, Qos.BATCH)
        except NotAllowed:
            return Caller(who, row.project, Qos.INTERACTIVE)
        return Caller(who, row.project, Qos.BATCH)

    async def _cut(self, row: StoreRow, entry: EntryRow, caller: Caller) -> Cut | None:
        """What a file is cut into; None when it cannot be, which it says then."""
        try:
            return await self._cutter.cut(entry, row.model, caller)
        except Unreadable as error:
            await self._entries.settle([_failed(entry, error.code, error.message)])
        except ServiceError as error:
            await self._fail([entry], error.message)
        return None

    async def _ready(self, row: StoreRow, cuts: Sequence[Cut], caller: Caller) -> list[Ready]:
        """The files with their vectors. Where a model refuses some together, each is tried alone."""
        texts = [passage.text for cut in cuts for passage in cut.passages]
        try:
            vectors = iter(await self._vectors(row.model, texts, caller))
        except BadRequest as error:
            if len(cuts) > 1:
                return [ready for cut in cuts for ready in await self._ready(row, [cut], caller)]
            await self._fail([cut.entry for cut in cuts], error.message)
            return []
        return [Ready(cut, tuple(next(vectors) for _ in cut.passages)) for cut in cuts]

    async def _vectors(self, model: str, texts: Sequence[str], caller: Caller) -> list[bytes]:
        """Again after a pause while there is hope. Raises what embedding raises in the end."""
        for attempt in range(_TRIES):
            try:
                return await self._embedder.vectors(model, texts, caller)
            except ServiceError as error:
                if attempt == _TRIES - 1 or not (error.retryable or isinstance(error, RateLimited)):
                    raise
                pause_s = error.retry_after or _PAUSE_S * 2**attempt
            await self._clock.sleep(min(pause_s, _LONGEST_PAUSE_S))
        raise AssertionError("the last attempt returns or raises")

    async def _commit(self, row: StoreRow, ready: Sequence[Ready]) -> None:
        """Make the files part of the store's next version, those that are still wanted."""
        async with self._pool.lock(row.id):
            now = await self._stores.get(row.id)
            wanted = await self._wanted_of(now, ready) if now else []
            if now is None or not wanted:
                return
            width = len(wanted[0].vectors[0]) // 4
            if now.width and now.width != width:
                told = f"{row.model} makes vectors of {width} numbers now, and the store has {now.width}; make it again"
                await self._fail([one.cut.entry for one in wanted], told)
                return
            after = newer(now, width)
            collection = await self._pool.to_change(now, width)
            placed = [placed for one in wanted for placed in one.placed]
            await self._pool.run(collection.put, placed, after.version)
            step = Step(after, [_completed(one) for one in wanted], self._clock.now())
            if await self._entries.advance(step):
                self._pool.changed(row.id)

    async def _wanted_of(self, row: StoreRow, ready: Sequence[Ready]) -> list[Ready]:
        """Those that nobody has taken back meanwhile, with the attributes that they have now, within the quota."""
        there = {one.file: one for one in await self._entries.some(row.id, [one.cut.entry.file for one in ready])}
        used = await self._entries.usage(row.project) if self._most_project_bytes else 0
        wanted: list[Ready] = []
        for one in ready:
            entry = there.get(one.cut.entry.file)
            if entry is None or entry.attempt != one.cut.entry.attempt or entry.status is not Ingestion.IN_PROGRESS:
                continue
            used += one.usage
            if self._most_project_bytes and used > self._most_project_bytes:
                await self._fail([entry], _over_quota(row.project, self._most_project_bytes))
                continue
            passages = tuple(replace(passage, attributes=entry.attributes) for passage in one.cut.passages)
            wanted.append(Ready(Cut(entry, passages), one.vectors))
        return wanted

    async def _fail(self, entries: Sequence[EntryRow], message: str) -> None:
        await self._entries.settle([_failed(entry, "server_error", message) for entry in entries])


def _failed(entry: EntryRow, code: str, message: str) -> EntryRow:
    return replace(entry, status=Ingestion.FAILED, error=code, message=message)


def _completed(one: Ready) -> EntryRow:
    usage, passages = one.usage, len(one.cut.passages)
    return replace(one.cut.entry, status=Ingestion.COMPLETED, usage=usage, passages=passages, error="", message="")


def _over_quota(project: str, most: int) -> str:
    return (
        f"the vector stores of the project {project} may have {most:,} bytes in all (`retrieval.max_project_bytes`); "
        "remove files or stores"
    )

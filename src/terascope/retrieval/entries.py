"""The files of vector stores: asked for, listed, changed, taken out; one by one and in batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from terascope.access.principal import Principal
from terascope.core.clock import Clock
from terascope.core.errors import Conflict, NotFound
from terascope.core.ids import new_id
from terascope.core.states import Ingestion
from terascope.files.files import Files, no_file
from terascope.retrieval.chunking import Strategy
from terascope.retrieval.contract import Passage, Value
from terascope.retrieval.ingesting import Ingester
from terascope.retrieval.pool import Pool
from terascope.retrieval.searching import no_store
from terascope.retrieval.stores import Stores
from terascope.store.files import FileRow
from terascope.store.vector_store_files import BatchRow, Counts, EntryRow, Step, VectorStoreFileStore
from terascope.store.vector_stores import Order, StoreRow, VectorStoreStore, newer


@dataclass(frozen=True, slots=True)
class NewEntry:
    """A file that is to go into a store, cut as `strategy` says."""

    file: str
    strategy: Strategy
    attributes: Mapping[str, Value]


class Entries:
    """Keeps the files of vector stores."""

    def __init__(
        self,
        stores: Stores,
        rows: VectorStoreFileStore,
        store_rows: VectorStoreStore,
        files: Files,
        pool: Pool,
        ingester: Ingester,
        clock: Clock,
    ) -> None:
        self._stores = stores
        self._rows = rows
        self._store_rows = store_rows
        self._files = files
        self._pool = pool
        self._ingester = ingester
        self._clock = clock

    async def add(self, who: Principal, store: StoreRow, new: NewEntry) -> EntryRow:
        """Ask for a file; what it had before in the store stays until the new passages are there.

        Raises `NotFound` for a file that is not of the store's project, `NotAllowed`, `ModelNotFound`.
        """
        [entry] = await self._ask(who, store, [new])
        return entry

    async def add_batch(self, who: Principal, store: StoreRow, new: Sequence[NewEntry]) -> BatchRow:
        """Ask for several files, all of them or none. Raises as `add`."""
        batch = BatchRow(new_id("vsfb"), store.id, self._clock.now())
        await self._ask(who, store, new, batch)
        return batch

    async def get(self, store: StoreRow, file: str) -> EntryRow:
        """Return one file of a store. Raises `NotFound`."""
        found = await self._rows.get(store.id, file)
        if found is None:
            raise _not_in(store, file)
        return found

    async def of(
        self, store: StoreRow, limit: int, *, order: Order = "desc", after: str = "", before: str = "",
        status: str = "", batch: str = "",
    ) -> list[EntryRow]:  # fmt: skip
        """Return up to `limit` files of a store or of a batch, by when they were asked for."""
        return await self._rows.of(store.id, limit, order=order, after=after, before=before, status=status, batch=batch)

    async def counts(self, store: StoreRow, batch: str = "") -> Counts:
        """How many files there are, by status."""
        return await self._rows.counts(store.id, batch)

    async def batch(self, store: StoreRow, batch: str) -> BatchRow:
        """Return one batch of a store. Raises `NotFound`."""
        found = await self._rows.batch(store.id, batch)
        if found is None:
            raise NotFound(f"there is no batch {batch[:60]!r} in {store.id}", param="batch_id")
        return found

    async def cancel(self, batch: BatchRow) -> BatchRow:
        """Those of its files that are not there yet will not come; the others stay."""
        await self._rows.cancel(batch.id)
        return replace(batch, cancelled=True)

    async def remove(self, store: StoreRow, file: str) -> None:
        """Take a file out of the store; earlier versions still have it. Raises `NotFound`."""
        async with self._pool.lock(store.id):
            now, entry = await self._now(store, file)
            if entry.status is not Ingestion.COMPLETED and not await self._has(now, file):
                await self._rows.advance(Step(now, (), self._clock.now(), (file,)))
                return
            after = newer(now)
            collection = await self._pool.to_change(now)
            await self._pool.run(collection.remove, [file], after.version)
            await self._rows.advance(Step(after, (), self._clock.now(), (file,)))
            self._pool.changed(store.id)

    async def set_attributes(self, store: StoreRow, file: str, attributes: Mapping[str, Value]) -> EntryRow:
        """Give a file other attributes; earlier versions keep theirs. Raises `NotFound`."""
        async with self._pool.lock(store.id):
            now, entry = await self._now(store, file)
            entry = replace(entry, attributes=dict(attributes))
            if entry.status is not Ingestion.COMPLETED:
                await self._rows.settle([entry])
                return entry
            after = newer(now)
            collection = await self._pool.to_change(now)
            await self._pool.run(collection.set_attributes, file, dict(attributes), after.version)
            await self._rows.advance(Step(after, (entry,), self._clock.now()))
            self._pool.changed(store.id)
            return entry

    async def passages(self, store: StoreRow, file: str, start: int, limit: int) -> list[Passage]:
        """Return up to `limit` passages of a file as it is in the newest version. Raises `NotFound`, `Conflict`."""
        entry = await self.get(store, file)
        if entry.status is not Ingestion.COMPLETED:
            raise Conflict(f"{file} is {entry.status.value} in {store.id}, so there is nothing of it to show")
        collection = await self._pool.to_read(store)
        return await self._pool.run(collection.passages, file, store.version, start, limit)

    async def _has(self, store: StoreRow, file: str) -> bool:
        """Whether the newest version has passages of a file, such as of an earlier asking for it."""
        if not store.width:
            return False
        collection = await self._pool.to_read(store)
        return bool(await self._pool.run(collection.passages, file, store.version, 0, 1))

    async def _now(self, store: StoreRow, file: str) -> tuple[StoreRow, EntryRow]:
        """Both as they are while the store's lock is held. Raises `NotFound`."""
        now = await self._store_rows.get(store.id)
        if now is None:
            raise no_store(store.id)
        return now, await self.get(now, file)

    async def _ask(
        self, who: Principal, store: StoreRow, new: Sequence[NewEntry], batch: BatchRow | None = None
    ) -> list[EntryRow]:
        await self._stores.admit(who, self._stores.model(store), store.project)
        attempts = sorted(new_id("vsf") for _ in new)  # ids of one millisecond have no order; these have that of `new`
        entries = [
            _entry(attempt, who, store, await self._file(store, one.file), one, batch, self._clock.now())
            for attempt, one in zip(attempts, new, strict=True)
        ]
        if not await self._rows.ask(entries, batch):
            raise no_store(store.id)
        self._ingester.start(store.id, who)
        return entries

    async def _file(self, store: StoreRow, file: str) -> FileRow:
        row = await self._files.get(file)
        if row.project != store.project:
            raise no_file(file)
        return row


def _entry(
    attempt: str, who: Principal, store: StoreRow, file: FileRow, new: NewEntry, batch: BatchRow | None, now: float
) -> EntryRow:
    return EntryRow(
        store.id, file.id, attempt, file.filename, who.user_id, who.key_id, now, batch.id if batch else "",
        attributes=dict(new.attributes), strategy=new.strategy.kind, size=new.strategy.size,
        overlap=new.strategy.overlap,
    )  # fmt: skip


def _not_in(store: StoreRow, file: str) -> NotFound:
    return NotFound(f"there is no file {file[:60]!r} in {store.id}", param="file_id")

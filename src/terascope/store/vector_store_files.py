"""Repository of `vector_store_files` and `vector_store_batches`: which files are in which vector store, and how far."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Select, delete, func, insert, select, update

from terascope.core.states import Ingestion
from terascope.store.changes import one_by_one
from terascope.store.database import Database
from terascope.store.tables import vector_store_batches, vector_store_files, vector_stores
from terascope.store.vector_stores import Order, StoreRow, advance, between

_files = vector_store_files.c
Value = str | float | bool


@dataclass(frozen=True, slots=True)
class EntryRow:
    """A file in a vector store. `attempt` says which asking for it this is: a later one makes it void.

    `size` and `overlap` are tokens of a passage and those that two share; `strategy` is how they were chosen. `usage`
    is in bytes, `created` in seconds since the epoch; `error` and `message` say why it failed.
    """

    store: str
    file: str
    attempt: str
    filename: str
    user_id: str
    key_id: str
    created: float
    batch: str = ""
    status: Ingestion = Ingestion.IN_PROGRESS
    error: str = ""
    message: str = ""
    attributes: Mapping[str, Value] = field(default_factory=dict, hash=False)
    strategy: str = "auto"
    size: int = 0
    overlap: int = 0
    usage: int = 0
    passages: int = 0


@dataclass(frozen=True, slots=True)
class BatchRow:
    """Files that were asked for together; `created` in seconds since the epoch."""

    id: str
    store: str
    created: float
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Counts:
    """How many files a store or a batch has, by status, and how many bytes they use."""

    by_status: Mapping[Ingestion, int] = field(default_factory=dict)
    usage: int = 0

    def of(self, status: Ingestion) -> int:
        """How many there are in that status."""
        return self.by_status.get(status, 0)


@dataclass(frozen=True, slots=True)
class Step:
    """A store's next version, with what it says of files; those whose attempt is void by now are left as they are."""

    store: StoreRow
    entries: Sequence[EntryRow]
    now: float
    removed: Sequence[str] = ()


class VectorStoreFileStore:
    """Reads and writes `vector_store_files`. Every change is durable on return."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ask(self, rows: Sequence[EntryRow], batch: BatchRow | None = None) -> bool:
        """Note that files are wanted, in place of an earlier asking; False when the store is gone."""
        return bool(await self._database.writer.submit(_ask, (rows, batch)))

    async def advance(self, step: Step) -> bool:
        """Make a version the newest, with all it says of files or nothing; False when the store is gone."""
        return bool(await self._database.writer.submit(_advance, step))

    async def settle(self, rows: Sequence[EntryRow]) -> None:
        """Write what became of files, those whose attempt is void by now excepted."""
        await self._database.writer.submit(_settle, rows)

    async def get(self, store: str, file: str) -> EntryRow | None:
        """Return one file of a store."""
        found = await self._rows(select(vector_store_files).where(_files.store == store, _files.file == file))
        return found[0] if found else None

    async def some(self, store: str, files: Sequence[str]) -> list[EntryRow]:
        """Return those of the named files that are in a store."""
        return await self._rows(select(vector_store_files).where(_files.store == store, _files.file.in_(files)))

    async def of(
        self, store: str, limit: int, *, order: Order = "desc", after: str = "", before: str = "",
        status: str = "", batch: str = "",
    ) -> list[EntryRow]:  # fmt: skip
        """Return up to `limit` files of a store, by when they were asked for; `after` and `before` are files of it."""
        query = select(vector_store_files).where(_files.store == store)
        ends = [await self._attempt(store, one) for one in (after, before)]
        query = query.where(*between(_files.attempt, order, *ends)).limit(limit)
        query = query.where(_files.status == status) if status else query
        query = query.where(_files.batch == batch) if batch else query
        return await self._rows(query.order_by(_files.attempt.desc() if order == "desc" else _files.attempt))

    async def waiting(self, store: str, limit: int) -> list[EntryRow]:
        """Return up to `limit` files that are to be ingested, the first that was asked for first."""
        return await self.of(store, limit, order="asc", status=Ingestion.IN_PROGRESS)

    async def unfinished(self) -> list[str]:
        """Return the stores that have files to be ingested."""
        query = select(_files.store).where(_files.status == Ingestion.IN_PROGRESS).distinct()
        async with self._database.read() as connection:
            return sorted((await connection.execute(query)).scalars())

    async def counts(self, store: str, batch: str = "") -> Counts:
        """Count the files of a store, or those of a batch."""
        query = select(_files.status, func.count(), func.coalesce(func.sum(_files.usage), 0))
        query = query.where(_files.store == store).group_by(_files.status)
        query = query.where(_files.batch == batch) if batch else query
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        return Counts({Ingestion(status): int(count) for status, count, _ in rows}, sum(int(row[2]) for row in rows))

    async def batch(self, store: str, batch: str) -> BatchRow | None:
        """Return one batch of a store."""
        which = (vector_store_batches.c.id == batch, vector_store_batches.c.store == store)
        async with self._database.read() as connection:
            row = (await connection.execute(select(vector_store_batches).where(*which))).mappings().one_or_none()
        return BatchRow(**row) if row else None

    async def cancel(self, batch: str) -> None:
        """Those files of a batch that are not there yet will not come."""
        await self._database.writer.submit(_cancel, batch)

    async def usage(self, project: str) -> int:
        """How many bytes the stores of a project use."""
        query = select(func.coalesce(func.sum(_files.usage), 0)).join(vector_stores, vector_stores.c.id == _files.store)
        async with self._database.read() as connection:
            return int((await connection.execute(query.where(vector_stores.c.project == project))).scalar_one())

    async def _attempt(self, store: str, file: str) -> str:
        """The attempt of a file, which is its place in the order; nothing for none."""
        found = await self.get(store, file) if file else None
        return found.attempt if found else ""

    async def _rows(self, query: Select[Any]) -> list[EntryRow]:
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [EntryRow(**{**row, "status": Ingestion(row["status"])}) for row in rows]


@one_by_one
def _ask(connection: Connection, asked: tuple[Sequence[EntryRow], BatchRow | None]) -> bool:
    rows, batch = asked
    store = rows[0].store if rows else batch.store if batch else ""
    mine = select(vector_stores.c.id).where(vector_stores.c.id == store).with_for_update()
    if not connection.execute(mine).first():
        return False
    if batch is not None:
        connection.execute(insert(vector_store_batches).values(_plain(batch)))
    files = [row.file for row in rows]
    connection.execute(delete(vector_store_files).where(_files.store == store, _files.file.in_(files)))
    if rows:
        connection.execute(insert(vector_store_files), [_plain(row) for row in rows])
    return True


@one_by_one
def _advance(connection: Connection, step: Step) -> bool:
    mine = select(vector_stores.c.id).where(vector_stores.c.id == step.store.id).with_for_update()
    if not connection.execute(mine).first():
        return False
    advance(connection, step.store, step.now)
    gone = delete(vector_store_files).where(_files.store == step.store.id, _files.file.in_(step.removed))
    connection.execute(gone)
    _write(connection, step.entries)
    return True


@one_by_one
def _settle(connection: Connection, rows: Sequence[EntryRow]) -> None:
    _write(connection, rows)


@one_by_one
def _cancel(connection: Connection, batch: str) -> None:
    is_it = vector_store_batches.c.id == batch
    connection.execute(update(vector_store_batches).where(is_it).values(cancelled=True))
    waiting = (_files.batch == batch, _files.status == Ingestion.IN_PROGRESS)
    connection.execute(update(vector_store_files).where(*waiting).values(status=Ingestion.CANCELLED.value))


def _write(connection: Connection, rows: Sequence[EntryRow]) -> None:
    for row in rows:
        which = (_files.store == row.store, _files.file == row.file, _files.attempt == row.attempt)
        connection.execute(update(vector_store_files).where(*which).values(_plain(row)))


def _plain(row: EntryRow | BatchRow) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in row.__slots__}
    if isinstance(row, EntryRow):
        values |= {"status": row.status.value, "attributes": dict(row.attributes)}
    return values

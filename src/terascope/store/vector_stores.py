"""Repository of `vector_stores` and their versions; the passages are in collections of the same names."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, update

from terascope.store.changes import one_by_one
from terascope.store.database import Database
from terascope.store.projects import check_project
from terascope.store.tables import vector_store_versions, vector_stores

Order = Literal["asc", "desc"]
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class StoreRow:
    """One vector store. Times in seconds since the epoch; `lasts_days` after `active`, None: for ever.

    `model` is the `name@version` that makes its vectors, of `width` numbers; 0 until there is one. `version` is the
    newest, 0 an empty one; `kept` is the oldest that can be asked for.
    """

    id: str
    project: str
    user_id: str
    key_id: str
    name: str
    model: str
    created: float
    active: float
    width: int = 0
    version: int = 0
    kept: int = 0
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    lasts_days: int | None = None

    @property
    def expires(self) -> float | None:
        """When it expires, if nobody uses it before."""
        return None if self.lasts_days is None else self.active + self.lasts_days * DAY_S


class VectorStoreStore:
    """Reads and writes `vector_stores`. Every change is durable on return."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, row: StoreRow) -> None:
        """Store `row`. Raises `NotFound` without its project."""
        await self._database.writer.submit(_add, row)

    async def change(self, row: StoreRow) -> None:
        """Give a store the name, the labels and the lifetime of `row`."""
        await self._database.writer.submit(_change, row)

    async def touch(self, store: str, now: float) -> None:
        """It was used then."""
        await self._database.writer.submit(_touch, (store, now))

    async def remove(self, store: str) -> bool:
        """Forget a store with all that hangs on it; return whether there was one."""
        return bool(await self._database.writer.submit(_remove, store))

    async def get(self, store: str) -> StoreRow | None:
        """Return the store of that id."""
        async with self._database.read() as connection:
            query = select(vector_stores).where(vector_stores.c.id == store)
            row = (await connection.execute(query)).mappings().one_or_none()
        return StoreRow(**row) if row else None

    async def of(
        self, project: str, limit: int, *, order: Order = "desc", after: str = "", before: str = ""
    ) -> list[StoreRow]:
        """Return up to `limit` stores of a project by creation; those past the id `after` and not yet at `before`."""
        query = select(vector_stores).where(vector_stores.c.project == project)
        query = query.where(*between(vector_stores.c.id, order, after, before)).limit(limit)
        query = query.order_by(vector_stores.c.id.desc() if order == "desc" else vector_stores.c.id)
        async with self._database.read() as connection:
            return [StoreRow(**row) for row in (await connection.execute(query)).mappings().all()]

    async def all(self) -> list[StoreRow]:
        """Return every store, by creation."""
        async with self._database.read() as connection:
            query = select(vector_stores).order_by(vector_stores.c.id)
            return [StoreRow(**row) for row in (await connection.execute(query)).mappings().all()]

    async def use(self, store: str, version: int, now: float) -> None:
        """A version was asked for then."""
        await self._database.writer.submit(_use, (store, version, now))

    async def oldest_used(self, store: str, since: float) -> int | None:
        """Return the oldest version that was the newest, or asked for, at `since` or later."""
        versions = vector_store_versions.c
        query = select(func.min(versions.version)).where(versions.store == store, versions.used >= since)
        async with self._database.read() as connection:
            found = (await connection.execute(query)).scalar()
        return None if found is None else int(found)

    async def keep_from(self, store: str, version: int) -> None:
        """Versions before that one can be asked for no more."""
        await self._database.writer.submit(_keep_from, (store, version))


def between(column: Any, order: Order, after: str, before: str) -> list[ColumnElement[bool]]:
    """The conditions of a page: past the id `after`, and not yet at `before`, in that order."""
    down = order == "desc"
    found = [column < after if down else column > after] if after else []
    return found + ([column > before if down else column < before] if before else [])


def advance(connection: Connection, row: StoreRow, now: float) -> None:
    """Make `row.version` the newest, of vectors of `row.width`, in the transaction that `connection` is in."""
    there = connection.execute(select(vector_stores.c.version).where(vector_stores.c.id == row.id)).scalar_one()
    connection.execute(
        update(vector_stores)
        .where(vector_stores.c.id == row.id)
        .values(version=row.version, width=row.width, active=now)
    )
    _use_one(connection, row.id, int(there), now)
    _use_one(connection, row.id, row.version, now)


def newer(row: StoreRow, width: int = 0) -> StoreRow:
    """`row` with the version that comes next."""
    return replace(row, version=row.version + 1, width=width or row.width)


@one_by_one
def _add(connection: Connection, row: StoreRow) -> None:
    check_project(connection, row.project)
    values = {name: getattr(row, name) for name in StoreRow.__slots__}
    connection.execute(insert(vector_stores).values(values | {"labels": dict(row.labels)}))
    _use_one(connection, row.id, row.version, row.created)


@one_by_one
def _change(connection: Connection, row: StoreRow) -> None:
    changed = {"name": row.name, "labels": dict(row.labels), "lasts_days": row.lasts_days, "active": row.active}
    connection.execute(update(vector_stores).where(vector_stores.c.id == row.id).values(changed))


@one_by_one
def _touch(connection: Connection, used: tuple[str, float]) -> None:
    store, now = used
    connection.execute(update(vector_stores).where(vector_stores.c.id == store).values(active=now))


@one_by_one
def _remove(connection: Connection, store: str) -> int:
    return connection.execute(delete(vector_stores).where(vector_stores.c.id == store)).rowcount


@one_by_one
def _use(connection: Connection, used: tuple[str, int, float]) -> None:
    if connection.execute(select(vector_stores.c.id).where(vector_stores.c.id == used[0])).first():
        _use_one(connection, *used)


def _use_one(connection: Connection, store: str, version: int, now: float) -> None:
    versions = vector_store_versions.c
    which = (versions.store == store, versions.version == version)
    if not connection.execute(update(vector_store_versions).where(*which).values(used=now)).rowcount:
        connection.execute(insert(vector_store_versions).values(store=store, version=version, used=now))


@one_by_one
def _keep_from(connection: Connection, kept: tuple[str, int]) -> None:
    store, version = kept
    versions = vector_store_versions.c
    connection.execute(delete(vector_store_versions).where(versions.store == store, versions.version < version))
    raised = (vector_stores.c.id == store, vector_stores.c.kept < version)
    connection.execute(update(vector_stores).where(*raised).values(kept=version))

"""Repository of `files`: what is known of each file; its content is in the blob store under the same id."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select

from terascope.core.errors import QuotaExceeded
from terascope.store.changes import one_by_one
from terascope.store.database import Database
from terascope.store.projects import no_project
from terascope.store.tables import files, projects

Order = Literal["asc", "desc"]
_BATCH = 1000


@dataclass(frozen=True, slots=True)
class FileRow:
    """One file: whose it is, what for, how many bytes with which sha256; times in seconds since the epoch."""

    id: str
    project: str
    user_id: str
    key_id: str
    purpose: str
    filename: str
    bytes: int
    sha256: str
    created: float
    expires: float | None = None


class FileStore:
    """Reads and writes `files`. Every change is durable on return."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, row: FileRow, most: int = 0) -> None:
        """Store `row`. Raises `QuotaExceeded` when its project would have over `most` bytes (0: no limit)."""
        await self._database.writer.submit(_add, (row, most))

    async def remove(self, *ids: str) -> int:
        """Forget those files; return how many there were."""
        return int(await self._database.writer.submit(_remove, ids))

    async def get(self, file_id: str) -> FileRow | None:
        """Return the file of that id."""
        async with self._database.read() as connection:
            row = (await connection.execute(select(files).where(files.c.id == file_id))).mappings().one_or_none()
        return FileRow(**row) if row else None

    async def of(
        self, project: str, limit: int, *, order: Order = "desc", after: str = "", purpose: str = "", now: float = 0.0
    ) -> list[FileRow]:
        """Return up to `limit` files of a project that last beyond `now`, by creation; those past the id `after`."""
        query = select(files).where(files.c.project == project, ~_expired(now)).limit(limit)
        query = query.order_by(files.c.id.desc() if order == "desc" else files.c.id)
        if after:
            query = query.where(files.c.id < after if order == "desc" else files.c.id > after)
        if purpose:
            query = query.where(files.c.purpose == purpose)
        async with self._database.read() as connection:
            return [FileRow(**row) for row in (await connection.execute(query)).mappings().all()]

    async def total(self, project: str = "") -> tuple[int, int]:
        """How many files there are, of one project or of all, and how many bytes they have."""
        query = select(func.count(), func.coalesce(func.sum(files.c.bytes), 0)).select_from(files)
        if project:
            query = query.where(files.c.project == project)
        async with self._database.read() as connection:
            count, size = (await connection.execute(query)).one()
        return int(count), int(size)

    async def expired(self, now: float) -> list[str]:
        """Return the ids of some files that have expired by `now`."""
        async with self._database.read() as connection:
            return list((await connection.execute(select(files.c.id).where(_expired(now)).limit(_BATCH))).scalars())

    async def ids(self) -> AsyncIterator[Sequence[str]]:
        """Yield the ids of all files, in order, some at a time."""
        last = ""
        while True:
            query = select(files.c.id).where(files.c.id > last).order_by(files.c.id).limit(_BATCH)
            async with self._database.read() as connection:
                found = list((await connection.execute(query)).scalars())
            if not found:
                return
            yield found
            last = found[-1]


def _expired(now: float) -> ColumnElement[bool]:
    return func.coalesce(files.c.expires <= now, False)


@one_by_one
def _add(connection: Connection, added: tuple[FileRow, int]) -> None:
    row, most = added
    mine = select(projects.c.name).where(projects.c.name == row.project).with_for_update()  # one upload after the other
    if not connection.execute(mine).first():
        raise no_project(row.project)
    kept = select(func.coalesce(func.sum(files.c.bytes), 0)).where(files.c.project == row.project)
    if most and (there := int(connection.execute(kept).scalar_one())) + row.bytes > most:
        raise over_quota(row.project, there, most)
    connection.execute(insert(files).values({name: getattr(row, name) for name in FileRow.__slots__}))


@one_by_one
def _remove(connection: Connection, ids: Sequence[str]) -> int:
    return connection.execute(delete(files).where(files.c.id.in_(ids))).rowcount


def over_quota(project: str, kept: int, most: int) -> QuotaExceeded:
    """The error for a project that has no room for the file."""
    return QuotaExceeded(
        f"the project {project} keeps {kept:,} bytes of files and may keep {most:,}, too few for this one; delete some "
        "(`terascope files list` shows them)"
    )

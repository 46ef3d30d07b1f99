"""Repository of `projects`."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from terascope.core.errors import Conflict, NotFound
from terascope.store.audit import audited
from terascope.store.changes import one_by_one
from terascope.store.database import Database
from terascope.store.tables import members, projects


@dataclass(frozen=True, slots=True)
class ProjectRow:
    """One project; nobody may use a closed one."""

    name: str
    title: str
    created: float
    closed: float | None = None
    shares: int = 1


class ProjectStore:
    """Reads and writes `projects`. Every change is durable on return."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, row: ProjectRow) -> None:
        """Store `row`. Raises `Conflict` when there is a project of that name."""
        await audited(self._database, _add, row, "project.create", row.name, title=row.title)

    async def put(self, row: ProjectRow) -> None:
        """Replace the project's row. Raises `NotFound` when there is none."""
        await audited(
            self._database, _put, row, "project.change", row.name,
            title=row.title, closed=row.closed, shares=row.shares,
        )  # fmt: skip

    async def get(self, name: str) -> ProjectRow | None:
        """Return the project of that name."""
        async with self._database.read() as connection:
            row = (await connection.execute(select(projects).where(projects.c.name == name))).mappings().one_or_none()
        return ProjectRow(**row) if row else None

    async def all(self, *, of_user: str | None = None, besides: Sequence[str] = ()) -> list[ProjectRow]:
        """Return every project by name, or those that a user is a member of and those named `besides`."""
        query = select(projects).order_by(projects.c.name)
        if of_user is not None:
            mine = projects.c.name.in_(select(members.c.project).where(members.c.user_id == of_user))
            query = query.where(mine | projects.c.name.in_(besides))
        async with self._database.read() as connection:
            return [ProjectRow(**row) for row in (await connection.execute(query)).mappings().all()]


@one_by_one
def _add(connection: Connection, row: ProjectRow) -> None:
    if connection.execute(select(projects.c.name).where(projects.c.name == row.name)).first():
        raise Conflict(f"there is a project {row.name!r} already; choose another name", param="name")
    connection.execute(insert(projects).values({name: getattr(row, name) for name in ProjectRow.__slots__}))


@one_by_one
def _put(connection: Connection, row: ProjectRow) -> None:
    check_project(connection, row.name)
    changed = {"title": row.title, "closed": row.closed, "shares": row.shares}
    connection.execute(update(projects).where(projects.c.name == row.name).values(changed))


def check_project(connection: Connection, name: str) -> None:
    """Raise `NotFound` unless there is such a project."""
    if not connection.execute(select(projects.c.name).where(projects.c.name == name)).first():
        raise no_project(name)


def no_project(name: str) -> NotFound:
    """The error for a project that is not there, or that the caller may not know of."""
    return NotFound(f"there is no project {name[:70]!r} that you are a member of", param="project")

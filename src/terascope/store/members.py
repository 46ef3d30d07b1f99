"""Repository of `members`."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, RowMapping, delete, insert, select, update

from terascope.core.errors import NotFound
from terascope.core.projects import Role
from terascope.store.audit import audited
from terascope.store.changes import one_by_one
from terascope.store.database import Database
from terascope.store.projects import check_project
from terascope.store.tables import members


@dataclass(frozen=True, slots=True)
class MemberRow:
    """One user's role in one project."""

    project: str
    user_id: str
    role: Role
    added: float


class MemberStore:
    """Reads and writes `members`. Every change is durable on return."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, row: MemberRow) -> MemberRow:
        """Make a user a member, or change their role; return the row as it is now. Raises `NotFound`."""
        stored: MemberRow = await audited(
            self._database, _put, row, "member.put", row.project, user=row.user_id, role=row.role.value
        )
        return stored

    async def remove(self, project: str, user_id: str) -> None:
        """Make a user no member any more. Raises `NotFound`."""
        await audited(self._database, _remove, (project, user_id), "member.remove", project, user=user_id)

    async def of(self, project: str) -> list[MemberRow]:
        """Return the members of a project, by user."""
        return await self._read(project=project)

    async def of_user(self, user_id: str) -> list[MemberRow]:
        """Return what a user is a member of, by project."""
        return await self._read(user_id=user_id)

    async def _read(self, **where: str) -> list[MemberRow]:
        query = select(members).filter_by(**where).order_by(members.c.project, members.c.user_id)
        async with self._database.read() as connection:
            return _rows((await connection.execute(query)).mappings().all())


@one_by_one
def _put(connection: Connection, row: MemberRow) -> MemberRow:
    check_project(connection, row.project)
    found = connection.execute(select(members).where(_is(row.project, row.user_id))).mappings().first()
    if found is None:
        insert_member(connection, row)
        return row
    connection.execute(update(members).where(_is(row.project, row.user_id)).values(role=row.role.value))
    return MemberRow(row.project, row.user_id, row.role, found["added"])


@one_by_one
def _remove(connection: Connection, which: tuple[str, str]) -> None:
    if not connection.execute(delete(members).where(_is(*which))).rowcount:
        raise NotFound(f"{which[1][:200]!r} is no member of {which[0]!r}; `terascope members list` shows who is")


def insert_member(connection: Connection, row: MemberRow) -> None:
    """Add `row` in the transaction that `connection` is in, unless the user is a member already."""
    if not connection.execute(select(members.c.role).where(_is(row.project, row.user_id))).first():
        connection.execute(
            insert(members).values(project=row.project, user_id=row.user_id, role=row.role.value, added=row.added)
        )


def _is(project: str, user_id: str) -> ColumnElement[bool]:
    return (members.c.project == project) & (members.c.user_id == user_id)


def _rows(found: Iterable[RowMapping]) -> list[MemberRow]:
    return [MemberRow(**{**row, "role": Role(row["role"])}) for row in found]

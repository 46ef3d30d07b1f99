"""Repository of `keys`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, select, update

from terascope.core.projects import LOCAL_PROJECT, Role
from terascope.store.audit import audited
from terascope.store.changes import one_by_one
from terascope.store.database import Database
from terascope.store.members import MemberRow, insert_member
from terascope.store.projects import check_project
from terascope.store.tables import keys


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One key, without the key: `sha256` is all that is known of it."""

    id: str
    name: str
    prefix: str
    sha256: str
    scopes: tuple[str, ...]
    created: float
    expires: float | None = None
    revoked: float | None = None
    user_id: str = ""
    project: str = LOCAL_PROJECT
    confined: bool = False


class KeyStore:
    """Reads and writes `keys`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, row: KeyRow, role: Role) -> None:
        """Store `row`, durably on return; its user is in its project then, in `role` if they were not before.

        Raises `NotFound` when there is no such project.
        """
        await audited(
            self._database, _insert, (row, role), "key.create", row.id, name=row.name, user=row.user_id,
            project=row.project, confined=row.confined, scopes=list(row.scopes), expires=row.expires,
        )  # fmt: skip

    async def revoke(self, key_id: str, when: float) -> bool:
        """Mark the key revoked; return whether there was such a key, not yet revoked."""
        return bool(await audited(self._database, _revoke, (key_id, when), "key.revoke", key_id))

    async def by_sha256(self, sha256: str) -> KeyRow | None:
        """Return the key of that hash."""
        async with self._database.read() as connection:
            row = (await connection.execute(select(keys).where(keys.c.sha256 == sha256))).mappings().one_or_none()
        return _row(row) if row else None

    async def by_id(self, key_id: str) -> KeyRow | None:
        """Return the key of that id."""
        async with self._database.read() as connection:
            row = (await connection.execute(select(keys).where(keys.c.id == key_id))).mappings().one_or_none()
        return _row(row) if row else None

    async def all(self, *, project: str = "") -> list[KeyRow]:
        """Return every key, or those of one project, oldest first."""
        query = select(keys).order_by(keys.c.created, keys.c.id)
        if project:
            query = query.where(keys.c.project == project)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [_row(row) for row in rows]


@one_by_one
def _insert(connection: Connection, added: tuple[KeyRow, Role]) -> None:
    row, role = added
    check_project(connection, row.project)
    connection.execute(insert(keys), _values(row))
    insert_member(connection, MemberRow(row.project, row.user_id, role, row.created))


def _revoke(connection: Connection, asked: Sequence[tuple[str, float]]) -> list[bool]:
    statement = update(keys).where(keys.c.revoked.is_(None))
    return [
        connection.execute(statement.where(keys.c.id == key_id).values(revoked=when)).rowcount > 0
        for key_id, when in asked
    ]


def _values(row: KeyRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in KeyRow.__slots__} | {"scopes": list(row.scopes)}


def _row(row: RowMapping) -> KeyRow:
    return KeyRow(**{**row, "scopes": tuple(row["scopes"])})

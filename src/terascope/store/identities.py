"""Repository of `identities`: who came with a token, and what their groups made them last."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, select, update

from terascope.store.audit import AuditRow, entry, insert_entry
from terascope.store.changes import one_by_one
from terascope.store.database import Database
from terascope.store.tables import identities


@dataclass(frozen=True, slots=True)
class IdentityRow:
    """A user of an issuer, with the roles by project that a token issued at `issued` gave them."""

    user_id: str
    issuer: str
    subject: str
    roles: Mapping[str, str]
    operator: bool
    issued: float


class IdentityStore:
    """Reads and writes `identities`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def seen(self, row: IdentityRow) -> None:
        """Enter into the audit log what the user may do now and could not before, or the other way round; durable.

        A token that was issued before the one that changed it last changes nothing.
        """
        known = await self.get(row.user_id)
        if known is None or (known.issued <= row.issued and _access(known) != _access(row)):
            await self._database.writer.submit(_put, (row, entry("identity.change", row.user_id)))

    async def get(self, user_id: str) -> IdentityRow | None:
        """Return what is known of a user."""
        async with self._database.read() as connection:
            return _row((await connection.execute(_of(user_id))).mappings().one_or_none())


@one_by_one
def _put(connection: Connection, asked: tuple[IdentityRow, AuditRow]) -> None:
    row, audit = asked
    before = _row(connection.execute(_of(row.user_id)).mappings().one_or_none())
    values = {name: getattr(row, name) for name in IdentityRow.__slots__} | {"roles": dict(row.roles)}
    if before is None:
        connection.execute(insert(identities).values(values))
    elif before.issued <= row.issued and _access(before) != _access(row):
        connection.execute(update(identities).where(identities.c.user_id == row.user_id).values(values))
    else:  # another request with the same token was first
        return
    told = {"issuer": row.issuer, "subject": row.subject, "roles": dict(row.roles), "operator": row.operator}
    if before is not None:
        told |= {"subject_before": before.subject, "roles_before": dict(before.roles)}
    insert_entry(connection, audit, told)


def _of(user_id: str) -> Any:
    return select(identities).where(identities.c.user_id == user_id)


def _access(row: IdentityRow) -> tuple[object, ...]:
    return row.issuer, row.subject, dict(row.roles), row.operator


def _row(found: RowMapping | None) -> IdentityRow | None:
    return IdentityRow(**found) if found else None

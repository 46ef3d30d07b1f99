"""Repository of `audit`: every change of access or money, written in one transaction with the change itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select

from terascope.core.audit import acting
from terascope.core.ids import new_id, time_of
from terascope.store.database import Database
from terascope.store.tables import audit
from terascope.store.writer import Change


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One change: what was done to what, by whom, with which key, from where, when."""

    id: str
    time: float
    action: str
    target: str
    details: Mapping[str, Any]
    user_id: str
    key_id: str
    address: str


class AuditStore:
    """Reads `audit`; `audited` adds to it, and nothing changes it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def newest(self, limit: int, *, before: str = "", target: str = "", user_id: str = "") -> list[AuditRow]:
        """Return up to `limit` changes, newest first; older than the id `before`, of one target or by one user."""
        query = select(audit).order_by(audit.c.id.desc()).limit(limit)
        if before:
            query = query.where(audit.c.id < before)
        if target:
            query = query.where(audit.c.target == target)
        if user_id:
            query = query.where(audit.c.user_id == user_id)
        async with self._database.read() as connection:
            return [AuditRow(**row) for row in (await connection.execute(query)).mappings().all()]


async def audited(database: Database, change: Change, argument: Any, action: str, target: str, **details: Any) -> Any:
    """Apply `change` to `argument` and enter it into the audit log: both, durably on return, or neither.

    Returns and raises what `change` does. Who did it is whoever is `acting`.
    """
    return await database.writer.submit(_both, (change, argument, entry(action, target, **details)))


async def note(database: Database, action: str, target: str, **details: Any) -> None:
    """Enter into the audit log what changes nothing in the database; durable on return."""
    await audited(database, _nothing, None, action, target, **details)


def enter(connection: Connection, action: str, target: str, **details: Any) -> None:
    """Enter something into the audit log within the transaction that `connection` is in."""
    insert_entry(connection, entry(action, target), details)


def entry(action: str, target: str, **details: Any) -> AuditRow:
    """An entry, now and by whoever is `acting`, for `insert_entry`."""
    actor, audit_id = acting(), new_id("audit")
    who = (actor.user_id, actor.key_id, actor.address)
    return AuditRow(audit_id, time_of(audit_id), action, target, details, *who)


def insert_entry(connection: Connection, row: AuditRow, details: Mapping[str, Any]) -> None:
    """Enter `row` with its `details` in the transaction that `connection` is in."""
    values = {name: getattr(row, name) for name in AuditRow.__slots__}
    connection.execute(insert(audit).values(values | {"details": dict(details)}))


def _nothing(_connection: Connection, _arguments: Sequence[Any]) -> None:
    return


def _both(connection: Connection, asked: Sequence[tuple[Change, Any, AuditRow]]) -> list[Any]:
    results = []
    for change, argument, row in asked:
        results.append((change(connection, [argument]) or [None])[0])
        insert_entry(connection, row, row.details)
    return results

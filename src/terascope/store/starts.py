"""Repository of `starts`: how long replicas took to become ready."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, delete, insert, select

from terascope.store.database import Database
from terascope.store.tables import starts

KEPT_STARTS = 20
"""Starts of a deployment that are remembered."""


@dataclass(frozen=True, slots=True)
class StartRow:
    """One start: the replica's id, what it was of, when it was ready (seconds since the epoch), how long it took.

    `queue_s` passed before its program began, as in the queue of a batch system, `load_s` from then until it was ready.
    """

    id: str
    deployment: str
    model: str
    launcher: str
    ready: float
    queue_s: float
    load_s: float


class StartStore:
    """Reads and writes `starts`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, row: StartRow) -> None:
        """Store a start, durably on return, and forget all but the newest `KEPT_STARTS` of its deployment."""
        await self._database.writer.submit(_add, row)

    async def all(self) -> list[StartRow]:
        """Return all that are remembered, oldest first."""
        async with self._database.read() as connection:
            rows = (await connection.execute(select(starts).order_by(starts.c.ready))).mappings().all()
        return [StartRow(**row) for row in rows]


def _add(connection: Connection, rows: Sequence[StartRow]) -> None:
    connection.execute(insert(starts), [asdict(row) for row in rows])
    for name in {row.deployment for row in rows}:
        newest = starts.c.deployment == name, starts.c.ready.desc()
        old = connection.execute(select(starts.c.id).where(newest[0]).order_by(newest[1]).offset(KEPT_STARTS)).scalars()
        if ids := list(old):
            connection.execute(delete(starts).where(starts.c.id.in_(ids)))

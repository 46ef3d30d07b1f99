"""Repository of `reservations`."""

from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select

from terascope.core.errors import NotFound
from terascope.store.audit import audited
from terascope.store.changes import one_by_one
from terascope.store.database import Database
from terascope.store.projects import check_project
from terascope.store.tables import reservations


@dataclass(frozen=True, slots=True)
class ReservationRow:
    """`slots` requests of a model that a project may have running at once, between two times, before anybody else."""

    id: str
    project: str
    model: str
    slots: int
    starts: float
    ends: float
    note: str
    created: float


class ReservationStore:
    """Reads and writes `reservations`. Every change is durable on return."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, row: ReservationRow) -> None:
        """Store `row`. Raises `NotFound` when there is no such project."""
        await audited(
            self._database, _add, row, "reservation.create", row.id, project=row.project, model=row.model,
            slots=row.slots, starts=row.starts, ends=row.ends, note=row.note,
        )  # fmt: skip

    async def remove(self, reservation_id: str) -> None:
        """Take a reservation away. Raises `NotFound`."""
        await audited(self._database, _remove, reservation_id, "reservation.cancel", reservation_id[:60])

    async def ending_after(self, when: float) -> list[ReservationRow]:
        """Return the reservations that end after `when`, by their beginning."""
        query = select(reservations).where(reservations.c.ends > when)
        async with self._database.read() as connection:
            rows = await connection.execute(query.order_by(reservations.c.starts, reservations.c.id))
        return [ReservationRow(**row) for row in rows.mappings()]


@one_by_one
def _add(connection: Connection, row: ReservationRow) -> None:
    check_project(connection, row.project)
    connection.execute(insert(reservations).values({name: getattr(row, name) for name in ReservationRow.__slots__}))


@one_by_one
def _remove(connection: Connection, reservation_id: str) -> None:
    if not connection.execute(delete(reservations).where(reservations.c.id == reservation_id)).rowcount:
        raise NotFound(f"there is no reservation {reservation_id[:60]!r}; `terascope reservations list` shows them")

"""Reservations, on every kind of database."""

import pytest

from terascope.core.errors import NotFound
from terascope.store.audit import AuditStore
from terascope.store.database import Database
from terascope.store.projects import ProjectRow, ProjectStore
from terascope.store.reservations import ReservationRow, ReservationStore


def row(number: int, starts: float, ends: float, project: str = "lab") -> ReservationRow:
    return ReservationRow(f"reservation_{number}", project, "m", 4, starts, ends, "beam time", 0.0)


async def test_those_that_are_not_over_by_their_beginning(database: Database) -> None:
    await ProjectStore(database).add(ProjectRow("lab", "", 0.0))
    store = ReservationStore(database)
    later, now, over = row(1, 200.0, 300.0), row(2, 0.0, 150.5), row(3, 0.0, 100.0)
    for one in (later, now, over):
        await store.add(one)
    assert await store.ending_after(100.0) == [now, later]
    await store.remove(now.id)
    assert await store.ending_after(100.0) == [later]
    with pytest.raises(NotFound, match="no reservation 'reservation_2'"):
        await store.remove(now.id)
    actions = [one.action for one in await AuditStore(database).newest(10)]
    assert actions == ["reservation.cancel"] + ["reservation.create"] * 3 + ["project.create"]


async def test_for_projects_that_there_are(database: Database) -> None:
    with pytest.raises(NotFound, match="no project 'nowhere'"):
        await ReservationStore(database).add(row(1, 0.0, 1.0, "nowhere"))


async def test_shares_are_kept(database: Database) -> None:
    store = ProjectStore(database)
    await store.add(ProjectRow("lab", "", 0.0))
    found = await store.get("lab")
    assert found is not None
    assert found.shares == 1
    await store.put(ProjectRow("lab", "", 0.0, shares=7))
    assert await store.get("lab") == ProjectRow("lab", "", 0.0, shares=7)

"""What is reserved when, and who may see it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from terascope.access.access import Access
from terascope.access.principal import Principal
from terascope.core.errors import BadRequest, NotFound
from terascope.core.models import ModelVersion, Task
from terascope.store.database import Database
from terascope.testing.clock import ManualClock
from terascope.testing.databases import new_sqlite

MODEL = ModelVersion("m", "1", "digest", "echo:m", "", Task.GENERATE, 0)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    one = await Database.open(new_sqlite(tmp_path / "test.db"))
    yield one
    await one.aclose()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def access(database: Database, clock: ManualClock) -> Access:
    one = Access(database, clock)
    for name in ("lab", "ocean"):
        await one.projects.create(name, pi=f"pi of {name}")
    return one


async def test_slots_are_kept_between_two_times(access: Access, clock: ManualClock) -> None:
    now = clock.now()
    await access.reservations.create("lab", "m", 4, now + 10, now + 20)
    await access.reservations.create("lab", "m@1", 2, now + 15, now + 30)
    await access.reservations.create("ocean", "m@2", 8, now, now + 30)
    told = {after: dict(access.reservations.reserved(MODEL, after)) for after in (0, 10, 15, 20, 30)}
    assert told == {0: {}, 10: {"lab": 4}, 15: {"lab": 6}, 20: {"lab": 2}, 30: {}}


async def test_one_that_is_cancelled_keeps_nothing(access: Access, clock: ManualClock) -> None:
    now = clock.now()
    one = await access.reservations.create("lab", "m", 4, now, now + 20)
    await access.reservations.cancel(one.id)
    assert access.reservations.reserved(MODEL, 0) == {}
    with pytest.raises(NotFound):
        await access.reservations.cancel(one.id)


async def test_another_gateways_is_seen(access: Access, database: Database, clock: ManualClock) -> None:
    other, now = Access(database, clock), clock.now()
    await access.reservations.create("lab", "m", 4, now, now + 20)
    assert other.reservations.reserved(MODEL, 0) == {}
    await other.reservations.look()
    assert other.reservations.reserved(MODEL, 0) == {"lab": 4}


async def test_members_see_those_of_their_projects(access: Access, clock: ManualClock) -> None:
    now = clock.now()
    for project in ("lab", "ocean"):
        await access.reservations.create(project, "m", 1, now, now + 20)
    who = Principal("key_1", "pi", frozenset(), "pi of lab", "lab")
    assert [one.project for one in await access.reservations.visible_to(who)] == ["lab"]
    with pytest.raises(NotFound):
        await access.reservations.visible_to(who, "ocean")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"slots": 0}, "slots"),
        ({"slots": 10**9}, "slots"),
        ({"ends": 0.0}, "ends"),
        ({"starts": 50.0, "ends": 40.0}, "ends"),
        ({"ends": float("nan")}, "ends"),
        ({"ends": float("inf")}, "ends"),
        ({"starts": float("nan")}, "ends"),
        ({"model": "no model\n"}, "model"),
        ({"note": "x\r\nSet-Cookie: a"}, "note"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    access: Access, clock: ManualClock, change: dict[str, object], param: str
) -> None:
    asked: dict[str, object] = {"project": "lab", "model": "m", "slots": 1, "starts": 0.0, "ends": clock.now() + 10}
    with pytest.raises(BadRequest) as refused:
        await access.reservations.create(**(asked | change))  # type: ignore[arg-type]
    assert refused.value.param == param


async def test_what_was_used_counts_less_with_time(access: Access, database: Database, clock: ManualClock) -> None:
    from terascope.core.ledger import EntryKind
    from terascope.store.book import Book

    allocation = await access.allocations.grant(Principal("k", "o", frozenset()), "lab", 100.0)
    day = 86_400.0
    now = clock.now()

    def spend(connection: object, asked: object) -> None:
        book = Book(connection, ids=[allocation.id])  # type: ignore[arg-type]
        for number, age in enumerate((0.0, 10 * day)):
            book.accounts[allocation.id].add(-1000)
            book.enter(f"req_{number}", allocation.id, "lab", EntryKind.CHARGE, -1000, now - age)
        book.save()

    await database.writer.submit(spend, None)
    used = await access.allocations.recently_used(10 * day)
    assert used["lab"] == pytest.approx(1500, rel=0.05)
    assert (await access.allocations.recently_used(float("inf")))["lab"] == 2000

"""Holds live as long as their gateway, and grants as long as they say."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from terascope.access.access import Access
from terascope.access.estimate import Estimate
from terascope.access.principal import Grant, Principal
from terascope.core.config import AccountingConfig
from terascope.core.errors import AllocationExhausted, BadRequest, NotFound
from terascope.core.ledger import Settlement
from terascope.core.models import Mode
from terascope.core.prices import Price, micro
from terascope.core.projects import Role
from terascope.core.runs import RunRecord
from terascope.store.database import Database
from terascope.store.runs import RunStore
from terascope.testing.clock import ManualClock
from terascope.testing.databases import new_sqlite

ROOT = Principal("key_o", "root", frozenset({"operator"}), "root")
ADA = Principal("key_a", "ada", frozenset({"query"}), "ada", "climate")
UNIT = Price(0, micro(1))  # a service unit for each token
GRANT = Grant(ADA, Mode.QUERY, "m@1", "climate", price=UNIT)


def tokens(output: int | None) -> Estimate:
    return Estimate(0, output)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.open(new_sqlite(tmp_path / "t.db"))
    yield database
    await database.aclose()


@pytest.fixture
async def access(database: Database, clock: ManualClock) -> Access:
    access = Access(database, clock, AccountingConfig(hold_s=100, slice_tokens=10))
    await access.projects.create("climate", pi="ada")
    return access


async def left(access: Access) -> list[tuple[float, float]]:
    return [(row.balance / micro(1), row.held / micro(1)) for row in await access.allocations.of("climate")]


async def settle(access: Access, database: Database, run_id: str, output: int, cost: float) -> None:
    record = RunRecord(id=run_id, started=0.0, endpoint="x", completion_tokens=output, cost=micro(cost))
    settlement = access.accounts.settlement(GRANT, record, prompt_tokens=0)
    await RunStore(database).add(record, settlement)


async def test_the_grant_that_ends_first_is_used_first_and_none_is_stranded(
    access: Access, database: Database, clock: ManualClock
) -> None:
    now = clock.now()
    for amount, ends in ((10, None), (3, now + 50), (4, now + 1000)):
        await access.allocations.grant(ROOT, "climate", amount, ends=ends)
        clock.advance(0.001)  # so that they have an order
    await access.accounts.hold("req_1", GRANT, tokens(12))
    assert await left(access) == [(10, 5), (3, 3), (4, 4)]
    await settle(access, database, "req_1", 5, 5)
    assert await left(access) == [(10, 0), (0, 0), (2, 0)]
    [used] = await access.allocations.usage(ROOT, project="climate")
    assert (used.requests, used.output_tokens, used.amount) == (1, 5, micro(5))


async def test_a_grant_is_good_for_its_time_only(access: Access, clock: ManualClock) -> None:
    now = clock.now()
    row = await access.allocations.grant(ROOT, "climate", 10, starts=now + 100, ends=now + 200)
    with pytest.raises(AllocationExhausted):
        await access.accounts.hold("req_1", GRANT, tokens(1))
    clock.advance(150)
    await access.accounts.hold("req_2", GRANT, tokens(1))
    clock.advance(50)
    with pytest.raises(AllocationExhausted):
        await access.accounts.hold("req_3", GRANT, tokens(1))
    await access.allocations.set_end(row.id, None)
    await access.accounts.hold("req_4", GRANT, tokens(1))


async def test_a_living_gateway_keeps_its_holds_and_a_dead_ones_come_back(
    access: Access, database: Database, clock: ManualClock
) -> None:
    await access.allocations.grant(ROOT, "climate", 10)
    dead = Access(database, clock, AccountingConfig(hold_s=100))
    await dead.accounts.hold("req_dead", GRANT, tokens(6))
    await access.accounts.hold("req_1", GRANT, tokens(4))
    with pytest.raises(AllocationExhausted):
        await access.accounts.hold("req_2", GRANT, tokens(1))
    for _ in range(5):
        clock.advance(25)
        await access.accounts.tend()
    assert await left(access) == [(10, 4)]
    await access.accounts.hold("req_3", GRANT, tokens(6))
    await settle(access, database, "req_dead", 6, 6)  # it was not dead after all, and there is nothing left for it
    assert await left(access) == [(10, 10)]
    await settle(access, database, "req_1", 4, 4)
    await settle(access, database, "req_3", 0, 0)
    assert await left(access) == [(6, 0)]


async def test_an_answer_without_a_limit_is_held_slice_by_slice(
    access: Access, database: Database, clock: ManualClock
) -> None:
    await access.allocations.grant(ROOT, "climate", 35)
    meter = await access.accounts.hold("req_1", GRANT, tokens(None))
    assert (meter.covered, await left(access)) == (10, [(35, 10)])
    await meter.cover(10)
    await meter.cover(11)
    assert (meter.covered, await left(access)) == (20, [(35, 20)])
    clock.advance(200)
    await access.accounts._holds.expire(clock.now())  # as after a jump of the clock
    await meter.cover(21)
    assert (meter.covered, await left(access)) == (30, [(35, 30)])
    with pytest.raises(AllocationExhausted, match="has 5 service units left, and this request may need 40"):
        await meter.cover(31)
    await settle(access, database, "req_1", 30, 30)
    assert await left(access) == [(5, 0)]


async def test_tending_goes_on_by_itself(access: Access, database: Database, clock: ManualClock) -> None:
    await access.allocations.grant(ROOT, "climate", 10)
    await Access(database, clock, AccountingConfig(hold_s=10)).accounts.hold("req_dead", GRANT, tokens(6))
    task = asyncio.create_task(access.accounts.keep_tending())
    await clock.slept(25)
    assert await left(access) == [(10, 6)]
    clock.advance(25)
    await clock.slept(25)
    assert await left(access) == [(10, 0)]
    task.cancel()


async def test_an_unlimited_grant_is_seen_at_once(access: Access, clock: ManualClock) -> None:
    with pytest.raises(AllocationExhausted):
        await access.accounts.hold("req_1", GRANT, tokens(1))
    row = await access.allocations.grant(ROOT, "climate", None)
    project = await access.projects.find("climate")
    assert project is not None
    assert project.unlimited == row.id
    await access.accounts.hold("req_2", GRANT, tokens(1))  # of a grant from before: the database knows
    assert await left(access) == [(0, 0)]


async def test_wrong_grants_and_transfers(access: Access, clock: ManualClock) -> None:
    row = await access.allocations.grant(ROOT, "climate", 1)
    for amount in (0, -1, 1e10, float("nan"), float("inf"), 1e-9):
        with pytest.raises(BadRequest, match="`units`"):
            await access.allocations.grant(ROOT, "climate", amount)
    for starts, ends in ((-1.0, None), (None, 5.0), (clock.now() + 9, clock.now() + 8), (1e300, None)):
        with pytest.raises(BadRequest):
            await access.allocations.grant(ROOT, "climate", 1, starts=starts, ends=ends)
    with pytest.raises(NotFound):
        await access.allocations.grant(ROOT, "none", 1)
    with pytest.raises(BadRequest, match="name another one"):
        await access.allocations.transfer(ROOT, row.id, row.id, 1)
    with pytest.raises(NotFound):
        await access.allocations.transfer(ROOT, row.id, "alloc_none", 1)
    assert await left(access) == [(1, 0)]


async def test_who_sees_whose_usage(access: Access, database: Database) -> None:
    await access.allocations.grant(ROOT, "climate", 10)
    for number, user in enumerate(("ada", "bob", "bob")):
        record = RunRecord(id=f"req_{number}", started=0.0, endpoint="x")
        paid = Settlement(record.id, "climate", micro(1), access.projects._clock.now(), user_id=user, model="m@1")
        await RunStore(database).add(record, paid)
    await access.projects.put_member("climate", "bob", Role.MEMBER)
    await access.projects.put_member("climate", "eve", Role.AUDITOR)
    seen = {}
    for user in ("ada", "bob", "eve"):
        found = await access.allocations.usage(Principal("k", user, frozenset(), user), project="climate")
        seen[user] = [(one.user_id, one.requests) for one in found]
    everybody = [("ada", 1), ("bob", 2)]
    assert seen == {"ada": everybody, "bob": [("bob", 2)], "eve": everybody}
    bob = Principal("k", "bob", frozenset(), "bob")
    assert [one.user_id for one in await access.allocations.usage(bob, user="ada")] == ["bob"]
    with pytest.raises(NotFound):
        await access.allocations.usage(Principal("k", "mallory", frozenset(), "mallory"), project="climate")


async def test_tending_survives_a_database_that_is_away(
    access: Access, database: Database, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    await access.allocations.grant(ROOT, "climate", 10)
    await access.accounts.hold("req_1", GRANT, tokens(6))
    await database.aclose()
    task = asyncio.create_task(access.accounts.keep_tending())
    await clock.slept(25)
    assert [one.message for one in caplog.records] == ["holds or charges could not be tended"]
    assert not task.done()
    task.cancel()
    await access.accounts.aclose()

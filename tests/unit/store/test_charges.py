"""What a request cost is on record with it, and in the ledger a moment later, once, whoever enters it."""

import asyncio

import pytest

from terascope.core.ledger import Hold, Redraw, Settlement, Share
from terascope.core.runs import RunRecord
from terascope.store.allocations import AllocationRow, AllocationStore
from terascope.store.charges import ChargeStore
from terascope.store.database import Database, Durability
from terascope.store.entries import EntryStore
from terascope.store.holds import HoldStore
from terascope.store.projects import ProjectRow, ProjectStore
from terascope.store.runs import RunStore
from terascope.testing.ledger import audit

GRANTED = 1000
HOLD = Hold("req_0", "p", 10, 100.0, 200.0)


@pytest.fixture(autouse=True)
async def granted(database: Database) -> None:
    await ProjectStore(database).add(ProjectRow("p", "", 0.0))
    for name, unlimited in (("alloc_p", False), ("alloc_free", True)):
        balance, project = (0, "q") if unlimited else (GRANTED, "p")
        if unlimited:
            await ProjectStore(database).add(ProjectRow("q", "", 0.0))
        row = AllocationRow(name, project, unlimited, balance, 0.0, None, "", 0.0)
        await AllocationStore(database).add(row, f"entry_{name}", "root")


async def block_of(database: Database) -> Share:
    held = await HoldStore(database).redraw(Redraw(HOLD, 100, "block_1"))
    assert held.block is not None
    return held.block


async def settle(database: Database, run_id: str, cost: int, share: Share | None = None, unlimited: str = "") -> None:
    settlement = Settlement(run_id, "q" if unlimited else "p", cost, 100.0, unlimited, "ada", model="m", share=share)
    assert await RunStore(database).add(RunRecord(id=run_id, started=1.0, endpoint="x", cost=cost), settlement) == 0


async def left(database: Database, project: str = "p") -> tuple[int, int]:
    [row] = await AllocationStore(database).of(project)
    return row.balance, row.held


async def charged(database: Database, allocation: str = "alloc_p") -> int:
    granted = 0 if allocation == "alloc_free" else GRANTED
    return granted - await EntryStore(database).total(allocation)


async def test_a_covered_cost_is_entered_later_and_its_block_is_held_until_then(database: Database) -> None:
    block = await block_of(database)
    await settle(database, "req_1", 7, Share(block.block, block.allocation, 10))
    assert await left(database) == (GRANTED, 100)
    assert (await audit(database)).clean  # it is on record, and nothing is lost
    assert await ChargeStore(database).enter() == []
    assert await left(database) == (GRANTED - 7, 93)
    assert await charged(database) == 7
    assert await ChargeStore(database).enter() == []
    assert await left(database) == (GRANTED - 7, 93)


async def test_an_allocation_without_a_limit_pays_later_too(database: Database) -> None:
    await settle(database, "req_1", 7, unlimited="alloc_free")
    assert await left(database, "q") == (0, 0)
    await ChargeStore(database).enter()
    assert await left(database, "q") == (-7, 0)
    assert await charged(database, "alloc_free") == 7


async def test_what_costs_more_than_its_share_is_charged_at_once(database: Database) -> None:
    block = await block_of(database)
    await settle(database, "req_1", 12, Share(block.block, block.allocation, 10))
    assert await left(database) == (GRANTED - 12, 90)


@pytest.mark.parametrize("stays", [0, 30])
async def test_a_block_pays_before_it_is_given_back(database: Database, stays: int) -> None:
    block = await block_of(database)
    await settle(database, "req_1", 7, Share(block.block, block.allocation, 10))
    await HoldStore(database).give_back(Share(block.block, block.allocation, stays))
    assert await left(database) == (GRANTED - 7, stays)


async def test_a_block_pays_before_it_is_drawn_anew(database: Database) -> None:
    block = await block_of(database)
    await settle(database, "req_1", 7, Share(block.block, block.allocation, 10))
    old = Share(block.block, block.allocation, 0)
    held = await HoldStore(database).redraw(Redraw(HOLD, 50, "block_2", old, keep=20))
    assert held.block == Share("block_1", "alloc_p", 50)
    assert await left(database) == (GRANTED - 7, 70)


async def test_a_block_pays_before_it_expires(database: Database) -> None:
    block = await block_of(database)
    await settle(database, "req_1", 7, Share(block.block, block.allocation, 10))
    await HoldStore(database).expire(HOLD.expires)
    assert await left(database) == (GRANTED - 7, 0)
    assert (await audit(database)).clean


async def test_a_cost_whose_block_is_gone_is_paid_by_what_is_left(database: Database) -> None:
    block = await block_of(database)
    await HoldStore(database).expire(HOLD.expires)
    await settle(database, "req_1", 7, Share(block.block, block.allocation, 10))
    assert await ChargeStore(database).enter() == []
    assert await left(database) == (GRANTED - 7, 0)


async def test_who_could_not_pay_is_told(database: Database) -> None:
    block = await block_of(database)
    await HoldStore(database).expire(HOLD.expires)
    assert (await HoldStore(database).hold(Hold("req_all", "p", GRANTED, 100.0, 900.0))).had
    await settle(database, "req_1", 7, Share(block.block, block.allocation, 10))
    assert await ChargeStore(database).enter() == ["req_1"]
    assert await left(database) == (GRANTED, GRANTED)


async def test_several_gateways_enter_everything_once(database: Database, url: str, durability: Durability) -> None:
    block = await block_of(database)
    other = await Database.open(url, durability=durability)
    try:
        for number in range(20):
            await settle(database, f"req_{number}", 3, Share(block.block, block.allocation, 4))
        await asyncio.gather(*(ChargeStore(one).enter() for one in (database, other) * 5))
    finally:
        await other.aclose()
    assert await left(database) == (GRANTED - 60, 40)
    assert await charged(database) == 60

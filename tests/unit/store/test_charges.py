"""What a request cost is on record with it, and in the ledger a moment later, once, whoever enters it."""

import asyncio

import pytest
from sqlalchemy import select

from terascope.core.errors import Conflict, NotFound
from terascope.core.ledger import DAY_S, Charge, Hold, Redraw, Settlement, Share
from terascope.core.runs import RunRecord
from terascope.store.allocations import AllocationRow, AllocationStore
from terascope.store.charges import ChargeStore
from terascope.store.database import Database, Durability
from terascope.store.entries import EntryStore, Refund
from terascope.store.holds import HoldStore
from terascope.store.projects import ProjectRow, ProjectStore
from terascope.store.runs import RunStore
from terascope.store.tables import entries
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


async def settle(
    database: Database, run_id: str, cost: int, share: Share | None = None, unlimited: str = "", user: str = "ada"
) -> None:
    """Charge what is covered, and settle the rest, as `Accounts.settlement` does."""
    due: Charge | Settlement
    common = (run_id, "q" if unlimited else "p", cost, 100.0, unlimited, user, f"key_{user}", "m", 2, 1)
    if unlimited or (share and cost <= share.amount):
        due = Charge(*common, *((share.block, share.allocation) if share else ("", "")))
    else:
        due = Settlement(*common, share)
    record = RunRecord(id=run_id, started=1.0, endpoint="x", cost=cost, project=common[1])
    assert await RunStore(database).add(record, due) == 0


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


@pytest.mark.parametrize("own", [True, False], ids=["own", "another's"])
async def test_whoever_wrote_charges_they_are_entered_alike(
    database: Database, url: str, durability: Durability, own: bool
) -> None:
    block = await block_of(database)
    other = await Database.open(url, durability=durability)
    try:
        share = Share(block.block, block.allocation, 10)
        await asyncio.gather(*(settle(database, f"req_{number}", 5, share, user='a"\n\u00fc') for number in range(3)))
        await settle(database, "req_3", 7, unlimited="alloc_free")
        assert await ChargeStore(database if own else other).enter() == []
        assert sorted((await entries_of(database)).values()) == [(-15, 3), (-7, 1)]
        assert [(one.user_id, one.requests) for one in await EntryStore(other).usage(0, 9)] == [
            ('a"\n\u00fc', 3),
            ("ada", 1),
        ]
    finally:
        await other.aclose()
    assert (await audit(database)).clean


async def test_a_record_that_comes_again_is_charged_once_as_it_was(database: Database) -> None:
    await settle(database, "req_0", 5, unlimited="alloc_free")
    again = (settle(database, f"req_{number}", 7, unlimited="alloc_free") for number in range(3))
    refused, *others = await asyncio.gather(*again, return_exceptions=True)
    assert isinstance(refused, Exception)
    assert others == [None, None]
    assert await ChargeStore(database).enter() == []
    assert [*(await entries_of(database)).values()] == [(-19, 3)]
    assert (await audit(database)).clean


async def test_what_one_user_was_charged_is_one_entry(database: Database) -> None:
    block = await block_of(database)
    for number in range(3):
        await settle(database, f"req_{number}", 5 + number, Share(block.block, block.allocation, 10))
    await settle(database, "req_bob", 4, Share(block.block, block.allocation, 10), user="bob")
    assert await ChargeStore(database).enter() == []
    assert await entries_of(database) == {"req_0": (-18, 3), "req_bob": (-4, 1)}
    assert await left(database) == (GRANTED - 22, 78)
    assert (await audit(database)).clean
    ada, bob = await EntryStore(database).usage(0, 9)
    assert (ada.user_id, ada.requests, ada.prompt_tokens, ada.output_tokens, ada.amount) == ("ada", 3, 6, 3, 18)
    assert (bob.user_id, bob.requests, bob.prompt_tokens, bob.output_tokens, bob.amount) == ("bob", 1, 2, 1, 4)


async def test_one_of_several_can_be_given_back_once(database: Database) -> None:
    block = await block_of(database)
    for number in range(3):
        await settle(database, f"req_{number}", 5 + number, Share(block.block, block.allocation, 10))
    await ChargeStore(database).enter()
    for run_id, cost in (("req_2", 7), ("req_0", 5)):
        assert await EntryStore(database).refund(Refund(run_id, 100.0, "root", "why")) == cost
        with pytest.raises(Conflict, match="given back before"):
            await EntryStore(database).refund(Refund(run_id, 100.0, "root", "why"))
    assert await left(database) == (GRANTED - 6, 82)
    assert await charged(database) == 6
    [used] = await EntryStore(database).usage(0, 9)
    assert (used.requests, used.prompt_tokens, used.output_tokens, used.amount) == (3, 2, 1, 6)
    with pytest.raises(NotFound):
        await EntryStore(database).refund(Refund("req_", 100.0, "root", ""))
    with pytest.raises(NotFound):
        await EntryStore(database).refund(Refund('req_%" or 1', 100.0, "root", ""))


async def test_several_whose_block_is_gone_take_what_each_finds(database: Database) -> None:
    block = await block_of(database)
    await HoldStore(database).expire(HOLD.expires)
    assert (await HoldStore(database).hold(Hold("req_most", "p", GRANTED - 8, 100.0, 900.0))).had
    for number in range(3):
        await settle(database, f"req_{number}", 5, Share(block.block, block.allocation, 10))
    assert await ChargeStore(database).enter() == ["req_1", "req_2"]
    assert await left(database) == (GRANTED - 8, GRANTED - 8)
    assert await entries_of(database) == {"req_0": (-5, 1), "req_1": (-3, 1)}


async def test_days_are_charged_apart(database: Database) -> None:
    block = await block_of(database)
    share = (block.block, block.allocation)
    for number, time in enumerate((DAY_S - 1.0, DAY_S + 1.0, DAY_S + 2.0)):
        run_id = f"req_{number}"
        due = Charge(run_id, "p", 5, time, "", "ada", "key_ada", "m", 2, 1, *share)
        await RunStore(database).add(RunRecord(id=run_id, started=time, endpoint="x", cost=5, project="p"), due)
    await ChargeStore(database).enter()
    assert await entries_of(database) == {"req_0": (-5, 1), "req_1": (-10, 2)}
    assert [(one.day, one.amount) for one in await EntryStore(database).usage(0, 9)] == [
        ("1970-01-01", 5),
        ("1970-01-02", 10),
    ]


async def entries_of(database: Database) -> dict[str, tuple[int, int]]:
    """Amounts of charges, and of how many requests they are, by id."""
    query = select(entries.c.id, entries.c.amount, entries.c.requests).where(entries.c.kind == "charge")
    async with database.read() as connection:
        return {row[0]: (row[1], row[2]) for row in await connection.execute(query)}

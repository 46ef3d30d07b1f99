"""What is held in bulk is shared out, never twice, and comes back; who asks seldom or has little gets none."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from terascope.access.access import Access
from terascope.access.blocks import FRESH_S
from terascope.access.estimate import Estimate
from terascope.access.principal import Grant, Principal
from terascope.core.config import AccountingConfig
from terascope.core.errors import AllocationExhausted
from terascope.core.models import Mode
from terascope.core.prices import Price
from terascope.core.runs import RunRecord
from terascope.store.allocations import AllocationRow
from terascope.store.database import Database
from terascope.store.holds import HoldStore
from terascope.store.runs import RunStore
from terascope.store.tables import holds
from terascope.testing.clock import ManualClock
from terascope.testing.databases import new_sqlite
from terascope.testing.ledger import audit
from terascope.testing.postgres import PostgresCluster

ROOT = Principal("key_o", "root", frozenset({"operator"}), "root")
ADA = Principal("key_a", "ada", frozenset({"query"}), "ada", "climate")
GRANT = Grant(ADA, Mode.QUERY, "m@1", "climate", price=Price(0, 1))
HOLD_S = 100.0
OFTEN = 16


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield new_sqlite(tmp_path / "t.db")
        return
    cluster: PostgresCluster = request.getfixturevalue("postgres")
    name = cluster.create_migrated()
    yield cluster.url(name)
    cluster.drop(name)


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    database = await Database.open(url)
    yield database
    await database.aclose()


class Gateway:
    """One gateway's accounts, and requests of `climate` on them."""

    def __init__(self, database: Database, clock: ManualClock) -> None:
        self.database, self.clock = database, clock
        self.access = Access(database, clock, AccountingConfig(hold_s=HOLD_S, slice_tokens=10))
        self._number = 0

    async def begin(self, amount: int, *, unlimited_answer: bool = False) -> str:
        self._number += 1
        run_id = f"req_{id(self)}_{self._number}"
        await self.access.accounts.hold(run_id, GRANT, Estimate(0, None if unlimited_answer else amount))
        return run_id

    async def end(self, run_id: str, cost: int) -> None:
        record = RunRecord(id=run_id, started=1.0, endpoint="x", cost=cost, completion_tokens=cost)
        settlement = self.access.accounts.settlement(GRANT, record, prompt_tokens=0)
        assert await RunStore(self.database).add(record, settlement) == 0

    async def ask(self, amount: int, cost: int) -> None:
        await self.end(await self.begin(amount), cost)

    async def ask_often(self, count: int = OFTEN + 1, amount: int = 10, cost: int = 4) -> None:
        for _ in range(count):
            await self.ask(amount, cost)

    async def grant(self, micro: int, ends: float | None = None) -> AllocationRow:
        return await self.access.allocations.grant(ROOT, "climate", micro / 1e6, ends=ends)

    async def left(self) -> list[tuple[int, int]]:
        return [(row.balance, row.held) for row in await self.access.allocations.of("climate")]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def gateway(database: Database, clock: ManualClock) -> Gateway:
    gateway = Gateway(database, clock)
    await gateway.access.projects.create("climate", pi="ada")
    return gateway


async def test_a_project_that_asks_often_gets_a_block_and_gives_it_back(gateway: Gateway, clock: ManualClock) -> None:
    await gateway.grant(1_000_000)
    await gateway.ask_often(OFTEN - 1)
    assert await gateway.left() == [(1_000_000 - 15 * 4, 0)]
    await gateway.ask(10, 4)
    assert await gateway.left() == [(1_000_000 - 16 * 4, 2560 - 4)]
    before = await gateway.left()
    running = [await gateway.begin(10) for _ in range(99)]
    assert await gateway.left() == before  # the database was not asked
    for run_id in running:
        await gateway.end(run_id, 4)
    await gateway.ask(10, 4)
    assert await gateway.left() == [(1_000_000 - 116 * 4, 2560 - 101 * 4)]
    await gateway.access.accounts._blocks.give_back()
    assert (await gateway.left())[0][1] > 0  # it was used just now
    clock.advance(FRESH_S + 1)
    await gateway.access.accounts._blocks.give_back()
    assert await gateway.left() == [(1_000_000 - 116 * 4, 0)]
    assert (await audit(gateway.database)).clean


async def test_who_asks_seldom_gets_none(gateway: Gateway, clock: ManualClock) -> None:
    await gateway.grant(1_000_000)
    for _ in range(3 * OFTEN):
        await gateway.ask(10, 4)
        clock.advance(FRESH_S / (OFTEN - 2))
    assert (await gateway.left())[0][1] == 0


async def test_who_has_little_gets_none_and_uses_all_of_it(gateway: Gateway) -> None:
    await gateway.grant(319)
    for _ in range(79):
        await gateway.ask(10 if _ < 70 else 1, 4 if _ < 70 else 1)
    assert await gateway.left() == [(319 - 70 * 4 - 9, 0)]
    await gateway.ask(30, 30)
    with pytest.raises(AllocationExhausted, match="has 0 service units left"):
        await gateway.begin(1)


async def test_all_of_an_allocation_can_be_used_though_a_block_was_drawn(gateway: Gateway, clock: ManualClock) -> None:
    """The block shrinks with what is left; nothing is stranded in it."""
    await gateway.grant(2000)
    spent = 0
    while spent < 2000:
        await gateway.ask(5, 5)
        spent += 5
        clock.advance(0.01)
    assert await gateway.left() == [(0, 0)]
    with pytest.raises(AllocationExhausted):
        await gateway.begin(5)


async def test_other_gateways_find_enough_beside_a_block(
    gateway: Gateway, database: Database, clock: ManualClock
) -> None:
    await gateway.grant(8000)
    await gateway.ask_often(OFTEN + 1, 10, 0)
    assert await gateway.left() == [(8000, 1000)]
    other = Gateway(database, clock)
    await other.ask(7000, 7000)
    with pytest.raises(AllocationExhausted):
        await other.begin(1)
    for _ in range(100):  # what it has is its own
        await gateway.ask(10, 10)
    assert await gateway.left() == [(0, 0)]


async def test_a_request_that_costs_more_or_takes_longer_than_its_share(gateway: Gateway, clock: ManualClock) -> None:
    await gateway.grant(1_000_000)
    await gateway.ask_often()
    run_id = await gateway.begin(10)
    await gateway.end(run_id, 25)
    assert (await gateway.left())[0][0] == 1_000_000 - 17 * 4 - 25
    self_limited = await gateway.begin(0, unlimited_answer=True)
    await gateway.access.accounts.extend(self_limited, GRANT, 30)
    clock.advance(HOLD_S / 2)
    await gateway.access.accounts.tend()
    clock.advance(HOLD_S / 2 + 1)
    await gateway.access.accounts.tend()  # both were renewed
    await gateway.access.accounts._blocks.give_back()
    assert (await gateway.left())[0][1] == 30
    await gateway.end(self_limited, 30)
    await gateway.access.accounts._blocks.give_back()
    assert await gateway.left() == [(1_000_000 - 17 * 4 - 55, 0)]
    assert (await audit(gateway.database)).clean


async def test_a_dead_gateways_block_comes_back(gateway: Gateway, database: Database, clock: ManualClock) -> None:
    await gateway.grant(100_000)
    dead = Gateway(database, clock)
    await dead.ask_often()
    running = await dead.begin(10)
    assert (await gateway.left())[0][1] > 0
    clock.advance(HOLD_S + 1)
    await gateway.access.accounts.tend()
    assert (await gateway.left())[0] == (100_000 - 17 * 4, 0)
    await dead.end(running, 10)  # it was not dead after all
    await dead.access.accounts.tend()
    await dead.ask_often()
    assert (await gateway.left())[0][0] == 100_000 - 17 * 4 - 10 - 17 * 4
    assert (await audit(database)).clean


async def test_an_allocation_that_ends_pays_no_more_after_a_moment(gateway: Gateway, clock: ManualClock) -> None:
    first = await gateway.grant(100_000, ends=clock.now() + 1000)
    await gateway.grant(50_000)
    await gateway.ask_often()
    await gateway.access.allocations.set_end(first.id, clock.now())
    clock.advance(FRESH_S + 1)
    running = await gateway.begin(10)
    balances = [balance for balance, _ in await gateway.left()]
    await gateway.end(running, 10)
    assert [balance for balance, _ in await gateway.left()] == [balances[0], balances[1] - 10]
    await gateway.access.accounts.aclose()
    assert [held for _, held in await gateway.left()] == [0, 0]


async def test_a_block_that_the_database_lost_is_forgotten(gateway: Gateway, clock: ManualClock) -> None:
    await gateway.grant(100_000)
    await gateway.ask_often()
    await HoldStore(gateway.database).expire(
        clock.now() + HOLD_S + 1
    )  # as another gateway does, if this one stood still
    await gateway.access.accounts.tend()
    await gateway.ask_often()
    assert (await audit(gateway.database)).clean
    assert (await gateway.left())[0][0] == 100_000 - 34 * 4


async def test_who_comes_while_a_block_is_drawn_gets_a_share_of_it(gateway: Gateway, clock: ManualClock) -> None:
    await gateway.grant(1_000_000)
    await gateway.ask_often()
    clock.advance(FRESH_S + 1)
    running = await asyncio.gather(*(gateway.begin(10) for _ in range(30)))
    assert not await alone(gateway.database)
    for run_id in running:
        await gateway.end(run_id, 4)
    await gateway.access.accounts.aclose()
    assert await gateway.left() == [(1_000_000 - 47 * 4, 0)]
    assert (await audit(gateway.database)).clean


async def test_who_waits_for_a_block_goes_on_when_the_one_that_drew_it_left(
    gateway: Gateway, clock: ManualClock
) -> None:
    await gateway.grant(1_000_000)
    await gateway.ask_often()
    clock.advance(FRESH_S + 1)
    first, *others = [asyncio.create_task(gateway.begin(10)) for _ in range(5)]
    await asyncio.sleep(0)
    first.cancel()
    for run_id in await asyncio.gather(*others):
        await gateway.end(run_id, 4)
    assert (await gateway.left())[0][0] == 1_000_000 - 21 * 4


async def test_what_is_more_than_the_block_that_is_drawn_is_held_alone(gateway: Gateway, clock: ManualClock) -> None:
    await gateway.grant(100_000)
    await gateway.ask_often()
    clock.advance(FRESH_S + 1)
    _, large = await asyncio.gather(gateway.begin(10), gateway.begin(50_000))
    assert await alone(gateway.database) == [large]
    await gateway.end(large, 50_000)
    assert (await gateway.left())[0][0] == 100_000 - 17 * 4 - 50_000


async def test_what_is_left_of_an_earlier_block_can_be_had(gateway: Gateway) -> None:
    await gateway.grant(20_000)
    await gateway.ask_often()
    running = [await gateway.begin(10) for _ in range(100)]
    large = await gateway.begin(2000)  # too much to hold a block for such requests, and the one that was there is kept
    for run_id in running:
        await gateway.end(run_id, 1)
    left = 20_000 - 17 * 4 - 100 - 2000
    with pytest.raises(AllocationExhausted, match=r"has 0\.017832 service units left"):
        await gateway.begin(left + 1)
    last = await gateway.begin(left)
    await gateway.end(large, 2000)
    await gateway.end(last, left)
    assert await gateway.left() == [(0, 0)]
    assert (await audit(gateway.database)).clean


async def alone(database: Database) -> list[str]:
    """The requests for which something is held that is not in a block."""
    async with database.read() as connection:
        held = (await connection.execute(select(holds.c.id))).scalars()
        return [one for one in held if not one.startswith("block")]


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_at_once_everything_comes_back(
    gateway: Gateway, database: Database, clock: ManualClock, seed: int
) -> None:
    """Many requests at once on two gateways, some of them cancelled while they wait; every unit is accounted for."""
    chance = random.Random(seed)
    await gateway.grant(20_000)
    await gateway.grant(3_000, ends=clock.now() + 40)
    gateways = [gateway, Gateway(database, clock)]
    spent = 0

    async def one(at: Gateway) -> None:
        nonlocal spent
        amount = chance.choice([1, 3, 10, 200])
        try:
            run_id = await at.begin(amount)
        except AllocationExhausted:
            return
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)
        cost = chance.randrange(amount + 1)
        await asyncio.shield(at.end(run_id, cost))
        spent += cost

    for _ in range(12):
        tasks = [asyncio.create_task(one(chance.choice(gateways))) for _ in range(40)]
        await asyncio.sleep(0)
        chance.choice(tasks).cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert [one for one in ended if one is not None and not isinstance(one, asyncio.CancelledError)] == []
        clock.advance(chance.choice([0.0, 0.1, FRESH_S + 1]))
        for at in gateways:
            await at.access.accounts._blocks.give_back()
        assert (await audit(database)).clean
    clock.advance(FRESH_S + 1)
    for at in gateways:
        await at.access.accounts.aclose()
    assert (await audit(database)).overspent == []
    await HoldStore(database).expire(clock.now() + 2 * HOLD_S)  # of requests that were cancelled while they waited
    rows = await gateway.left()
    assert sum(balance for balance, _ in rows) >= 23_000 - spent - 200 * 12
    assert sum(held for _, held in rows) == 0

"""No interleaving of holds, settlements, refunds, transfers, expiries and crashes loses, makes or overspends a unit.

Two gateways on one database do what Hypothesis says, some of it at the same time. After every step each allocation's
balance is the sum of its entries, what it holds is the sum of its holds, and nothing is overspent. What is put on
record to be entered later is entered once, by whoever comes.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from terascope.core.errors import Conflict, NotFound
from terascope.core.ids import new_id
from terascope.core.ledger import Charge, Hold, Redraw, Settlement, Share
from terascope.core.runs import RunRecord
from terascope.core.states import Outcome
from terascope.store.allocations import AllocationRow, AllocationStore, Transfer
from terascope.store.charges import ChargeStore
from terascope.store.database import Database, Durability
from terascope.store.entries import EntryStore, Refund
from terascope.store.holds import Held, HoldStore
from terascope.store.projects import ProjectRow, ProjectStore
from terascope.store.runs import RunStore
from terascope.testing.ledger import entered, on_record

AMOUNTS = st.integers(1, 100)
GATEWAYS = st.integers(0, 1)
HOLD_S = 50.0


class Ledger(RuleBasedStateMachine):
    """Two gateways, one project, its allocations; `time` is theirs."""

    requests = Bundle("requests")
    settled = Bundle("settled")
    blocks = Bundle("blocks")
    grants = Bundle("grants")

    def __init__(self, url: str, durability: Durability) -> None:
        super().__init__()
        self.url, self.durability = url, durability
        self.runner = asyncio.Runner()
        self.time = 1000.0
        self.granted = self.charged = self.refunded = 0
        self.costs: dict[str, int] = {}
        self.due: dict[str, int] = {}  # what may be entered later, if somebody can pay
        self.project = new_id("p").replace("_", "-")
        self.databases = [self.run(Database.open(url, durability=durability)) for _ in range(2)]

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def teardown(self) -> None:
        self.run(ChargeStore(self.databases[0]).enter())
        self.run(HoldStore(self.databases[0]).expire(1e12))
        self.conserved()
        assert self.run(self.totals())[1] == 0
        for database in self.databases:
            self.run(database.aclose())
        self.runner.close()

    @initialize()
    def project_is_there(self) -> None:
        self.run(ProjectStore(self.databases[0]).add(ProjectRow(self.project, "", 0.0)))

    @rule(target=grants, amount=AMOUNTS, starts=st.integers(0, 50), lasts=st.integers(1, 500), gateway=GATEWAYS)
    def grant(self, amount: int, starts: int, lasts: int, gateway: int) -> str:
        start = self.time + starts - 25
        row = AllocationRow(new_id("alloc"), self.project, False, amount, start, start + lasts, "", self.time)
        self.run(AllocationStore(self.databases[gateway]).add(row, new_id("entry"), "root"))
        self.granted += amount
        return row.id

    @rule(target=requests, amounts=st.lists(AMOUNTS, min_size=1, max_size=5), gateway=GATEWAYS)
    def hold_at_once(self, amounts: list[int], gateway: int) -> list[str]:
        """Several requests come in one turn of the loop; what they may hold is less than there was in all."""
        asked = [Hold(new_id("req"), self.project, one, self.time, self.time + HOLD_S) for one in amounts]
        before = self.run(self.available())

        async def together() -> list[Held]:
            return await asyncio.gather(*(HoldStore(self.databases[gateway]).hold(one) for one in asked))

        had = [one for one, held in zip(asked, self.run(together()), strict=True) if held.had]
        assert sum(one.amount for one in had) == before - self.run(self.available())
        assert had or asked[0].amount > before
        return [one.id for one in asked]

    @rule(request=requests, amount=st.integers(1, 300), gateway=GATEWAYS)
    def extend(self, request: list[str], amount: int, gateway: int) -> None:
        hold = Hold(request[0], self.project, amount, self.time, self.time + HOLD_S)
        if request[0] not in self.costs:
            self.run(HoldStore(self.databases[gateway]).extend(hold))

    @rule(target=blocks, amount=st.integers(1, 5), want=st.integers(1, 300), gateway=GATEWAYS)
    def block(self, amount: int, want: int, gateway: int) -> Share | None:
        return self.redraw_block(None, amount, want, 0, gateway)

    @rule(target=blocks, old=blocks, amount=st.integers(1, 5), want=st.integers(1, 300), keep=AMOUNTS, gateway=GATEWAYS)
    def redraw(self, old: Share | None, amount: int, want: int, keep: int, gateway: int) -> Share | None:
        return self.redraw_block(old, amount, want, keep, gateway)

    def redraw_block(self, old: Share | None, amount: int, want: int, keep: int, gateway: int) -> Share | None:
        """What is drawn is an eighth of what there is at most; what is not, is held for the one request."""
        before, hold_id = self.run(self.available()), new_id("req")
        hold = Hold(hold_id, self.project, amount, self.time, self.time + HOLD_S)
        held = self.run(HoldStore(self.databases[gateway]).redraw(Redraw(hold, want, new_id("block"), old, keep)))
        after = self.run(self.available())
        if held.block is not None:
            assert amount * 4 <= held.block.amount <= want
            assert held.block.amount * 7 <= after
            return Share(held.block.block, held.block.allocation, amount)
        assert held.had or after == held.available < amount
        assert old is not None or after == before - amount * held.had
        return None

    @rule(block=blocks, amount=st.integers(0, 100), gateway=GATEWAYS)
    def give_back(self, block: Share | None, amount: int, gateway: int) -> None:
        if block is not None:
            self.run(HoldStore(self.databases[gateway]).give_back(block._replace(amount=amount)))

    @rule(block=blocks, share=AMOUNTS, cost=st.integers(1, 150), many=st.integers(1, 3), gateway=GATEWAYS)
    def settle_shares(self, block: Share | None, share: int, cost: int, many: int, gateway: int) -> None:
        """Shares that the block may have or may not, alone and several at once; some cost more than they are."""
        if block is None:
            return
        part = block._replace(amount=share)

        async def together() -> list[int]:
            store = RunStore(self.databases[gateway])
            return await asyncio.gather(*(store.add(record(one), self.of_share(one, cost, part)) for one in ids))

        ids = [new_id("req") for _ in range(many)]
        for one, rest in zip(ids, self.run(together()), strict=True):
            if cost <= share:
                assert rest == 0
                self.due[one] = cost
            else:
                self.charged += cost - rest

    @rule(gateways=st.lists(GATEWAYS, min_size=1, max_size=4))
    def enter(self, gateways: list[int]) -> None:
        """Both gateways enter at the same time what is due; whatever is, is then entered or cannot be paid."""

        async def together() -> list[list[str]]:
            return await asyncio.gather(*(ChargeStore(self.databases[one]).enter() for one in gateways))

        uncovered = [one for ids in self.run(together()) for one in ids]
        assert len(uncovered) == len(set(uncovered))
        assert set(uncovered) <= self.due.keys()
        assert not self.run(self.waiting())

    @rule(target=settled, requests=requests, cost=st.integers(0, 150), gateway=GATEWAYS)
    def settle_at_once(self, requests: list[str], cost: int, gateway: int) -> list[str]:
        """Those of one turn are settled in another, whether they were held, expired or refused."""

        async def together() -> list[int]:
            store = RunStore(self.databases[gateway])
            return await asyncio.gather(*(store.add(record(one), self.settlement(one, cost)) for one in new))

        new = [one for one in requests if one not in self.costs]
        uncovered = self.run(together())
        for one, rest in zip(new, uncovered, strict=True):
            assert 0 <= rest <= cost
            self.costs[one] = cost - rest
            self.charged += cost - rest
        return new

    @rule(requests=settled, gateway=GATEWAYS)
    def settle_again(self, requests: list[str], gateway: int) -> None:
        """A settlement that is written twice, as after a lost acknowledgement, charges once."""
        store = RunStore(self.databases[gateway])
        for one in requests:
            with pytest.raises(Exception, match=r"(?i)unique"):
                self.run(store.add(record(one), self.settlement(one, 7)))

    @rule(requests=settled, gateway=GATEWAYS)
    def refund(self, requests: list[str], gateway: int) -> None:
        for one in requests:
            try:
                self.refunded += self.run(
                    EntryStore(self.databases[gateway]).refund(Refund(one, self.time, "root", ""))
                )
            except NotFound:
                assert self.costs[one] == 0
            except Conflict:
                continue  # it was given back before

    @rule(giver=grants, taker=grants, amount=AMOUNTS, gateway=GATEWAYS)
    def transfer(self, giver: str, taker: str, amount: int, gateway: int) -> None:
        if giver == taker:
            return
        moved = Transfer(new_id("entry"), giver, taker, amount, self.time, "root", "")
        try:
            self.run(AllocationStore(self.databases[gateway]).transfer(moved))
        except Conflict:
            row = self.run(AllocationStore(self.databases[gateway]).get(giver))
            assert row.balance - row.held < amount

    @rule(seconds=st.integers(-100, 100))
    def time_passes(self, seconds: int) -> None:
        """Clocks jump, backwards too."""
        self.time += seconds

    @rule(gateway=GATEWAYS)
    def expire(self, gateway: int) -> None:
        self.run(HoldStore(self.databases[gateway]).expire(self.time))

    @rule(request=requests, gateway=GATEWAYS)
    def renew(self, request: list[str], gateway: int) -> None:
        self.run(HoldStore(self.databases[gateway]).renew(request, self.time + HOLD_S))

    @rule(gateway=GATEWAYS)
    def crash(self, gateway: int) -> None:
        """A gateway is gone and another one comes: what ran there is never settled, unless another rule does."""
        self.run(self.databases[gateway].aclose())
        self.databases[gateway] = self.run(Database.open(self.url, durability=self.durability))

    @invariant()
    def conserved(self) -> None:
        balance, held = self.run(self.totals())
        assert 0 <= held <= balance
        entered = self.run(self.entered())
        assert all(amount <= self.due[one] for one, amount in entered.items())
        assert balance == self.granted - self.charged - sum(entered.values()) + self.refunded

    def settlement(self, request: str, cost: int) -> Settlement:
        return Settlement(request, self.project, cost, self.time, user_id="ada", model="m@1")

    def of_share(self, request: str, cost: int, share: Share) -> Charge | Settlement:
        """A charge where the share is enough."""
        if cost <= share.amount:
            whose = ("", "ada", "key_1", "m@1", 1, 2)
            return Charge(request, self.project, cost, self.time, *whose, share.block, share.allocation)
        return self.settlement(request, cost)._replace(share=share)

    async def entered(self) -> dict[str, int]:
        """What was charged later of what was due, by request."""
        async with self.databases[0].read() as connection:
            found = await connection.run_sync(entered)
        return {run: amount for run, amount in found.items() if run in self.due}

    async def waiting(self) -> list[Charge]:
        """What is still to be entered."""
        async with self.databases[0].read() as connection:
            found: list[Charge] = await connection.run_sync(on_record)
        return found

    async def totals(self) -> tuple[int, int]:
        """All balances and all that is held, each checked against what it is the sum of."""
        database = self.databases[0]
        rows = await AllocationStore(database).of(self.project)
        for row in rows:
            assert row.balance == await EntryStore(database).total(row.id)
            assert row.held == await HoldStore(database).total(row.id)
            assert row.balance >= row.held >= 0
        return sum(row.balance for row in rows), sum(row.held for row in rows)

    async def available(self) -> int:
        rows = await AllocationStore(self.databases[0]).of(self.project)
        return sum(row.balance - row.held for row in rows if row.open(self.time))


def record(request: str) -> RunRecord:
    return RunRecord(id=request, started=1.0, endpoint="chat/completions", outcome=Outcome.COMPLETED)


@pytest.mark.timeout(400)
def test_no_interleaving_breaks_the_ledger(url: str, durability: Durability) -> None:
    class Here(Ledger):
        def __init__(self) -> None:
            super().__init__(url, durability)

    run_state_machine_as_test(
        Here, settings=settings(max_examples=25, stateful_step_count=25, deadline=None, derandomize=True)
    )

"""Who pays: holds before an answer, more while it runs, and settlements when it is over."""

import asyncio
import logging
import math
from collections.abc import Awaitable
from typing import Protocol

from terascope.access.blocks import FRESH_S, Block, Blocks
from terascope.access.estimate import Estimate
from terascope.access.principal import Grant
from terascope.access.projects import Projects
from terascope.core.clock import Clock
from terascope.core.config import AccountingConfig
from terascope.core.errors import AllocationExhausted
from terascope.core.ledger import Charge, Hold, Settlement, Share
from terascope.core.prices import units
from terascope.core.runs import RunRecord
from terascope.store.charges import ChargeStore
from terascope.store.database import Database
from terascope.store.holds import Held, HoldStore

log = logging.getLogger(__name__)
_ADVICE = "set a smaller max_tokens"
_ENTER_S = 1.0  # charges that come within it are entered in the ledger together


class Meter(Protocol):
    """How many answer tokens of one request are paid for."""

    covered: float

    async def cover(self, tokens: int) -> None:
        """Have so many tokens paid for. Raises `AllocationExhausted` when the project has not enough left."""
        ...


class NoMeter:
    """That of a request that is limited otherwise: by its own `max_tokens`, or by nothing."""

    covered = math.inf

    async def cover(self, tokens: int) -> None:
        return


NO_METER = NoMeter()


class SliceMeter:
    """That of a request that does not say how long its answer may get: it is held slice by slice."""

    def __init__(self, accounts: "Accounts", run_id: str, grant: Grant, estimate: Estimate) -> None:
        self._accounts = accounts
        self._run_id = run_id
        self._grant = grant
        self._prompt = estimate.prompt
        self._slice = accounts.slice_tokens * estimate.choices
        self.covered: float = self._slice

    async def cover(self, tokens: int) -> None:
        if tokens <= self.covered:
            return
        wanted = -(-tokens // self._slice) * self._slice
        amount = self._grant.price.cost(self._prompt, wanted)
        await self._accounts.extend(self._run_id, self._grant, amount)
        self.covered = wanted


class Accounts:
    """Holds and settles service units on the allocations of projects."""

    def __init__(self, database: Database, projects: Projects, config: AccountingConfig, clock: Clock) -> None:
        self._holds = HoldStore(database)
        self._charges = ChargeStore(database)
        self._charged = asyncio.Event()  # there is something to enter
        self._projects = projects
        self._config = config
        self._clock = clock
        self._live: set[str] = set()  # requests for which something is held alone
        self._blocks = Blocks(self._holds, clock)

    @property
    def slice_tokens(self) -> int:
        """Answer tokens held at a time where a request sets no limit."""
        return self._config.slice_tokens

    async def hold(self, run_id: str, grant: Grant, estimate: Estimate) -> Meter:
        """Set aside what the request may cost; durable on return.

        Raises `AllocationExhausted` when the project has not enough left. What was held is returned by the
        settlement of the same id, or some minutes after this process died.
        """
        if grant.unlimited or not (amount := estimate.amount(grant.price, self._config.slice_tokens)):
            return NO_METER
        if not self._blocks.take(run_id, grant.project, amount):
            await self._hold(run_id, grant, amount)
        return SliceMeter(self, run_id, grant, estimate) if estimate.output is None else NO_METER

    async def _hold(self, run_id: str, grant: Grant, amount: int) -> None:
        self._live.add(run_id)
        held = await self._blocks.hold(self._asked(run_id, grant, amount))
        if not held.had:
            self._live.discard(run_id)
            raise await self._exhausted(grant, amount, held)
        if held.block is not None:
            self._live.discard(run_id)

    async def extend(self, run_id: str, grant: Grant, amount: int, *, advice: str = _ADVICE) -> None:
        """Bring what the request holds up to `amount`.

        Raises `AllocationExhausted`; `advice` is what one can do to need less.
        """
        self._live.add(run_id)
        held = await self._holds.extend(self._asked(run_id, grant, amount - self._blocks.shared(run_id)))
        if not held.had:
            raise await self._exhausted(grant, amount, held, advice)

    def settlement(self, grant: Grant | None, record: RunRecord, *, prompt_tokens: int) -> Settlement | Charge | None:
        """What is to be settled for the request of `record`, or charged where that is covered for certain.

        None when nothing was held and nothing is due.
        """
        if grant is None:
            return None
        cost, alone = record.cost, record.id in self._live
        share = self._blocks.settled(record.id, cost)
        if not cost and not alone:
            return None
        if alone or not (cost <= share[1] if share else grant.unlimited):
            return self._alone(grant, record, prompt_tokens, share, alone)
        self._charged.set()
        block, allocation = (share[0].id, share[0].allocation) if share else ("", "")
        return Charge(
            record.id, grant.project, cost, self._clock.now(), "" if share else grant.unlimited,
            record.user_id, record.key_id, record.model, prompt_tokens, record.completion_tokens, block, allocation,
        )  # fmt: skip

    def _alone(
        self, grant: Grant, record: RunRecord, prompt_tokens: int, share: tuple[Block, int] | None, more: bool
    ) -> Settlement:
        """What is to be settled where `more` than the share is held, or the cost is not covered for certain."""
        self._live.discard(record.id)
        return Settlement(
            record.id, grant.project, record.cost, self._clock.now(), "" if more or share else grant.unlimited,
            record.user_id, record.key_id, record.model, prompt_tokens, record.completion_tokens,
            Share(share[0].id, share[0].allocation, share[1]) if share else None, more,
        )  # fmt: skip

    async def enter(self) -> None:
        """Enter in the ledger what requests cost whose records are on their way or durable."""
        self._charged.clear()  # the records of those that have set it were submitted before what follows
        for run_id in await self._charges.enter():
            log.warning("a request could not be charged", extra={"request_id": run_id})

    async def tend(self) -> None:
        """Renew this gateway's holds, enter charges, and return the holds of gateways that died; once."""
        now = self._clock.now()
        if live := sorted([*self._live, *self._blocks.ids()]):
            await self._holds.renew(live, now + self._config.hold_s)
        await self.enter()
        await self._holds.expire(now)
        await self._blocks.look()

    async def keep_tending(self) -> None:
        """Tend holds now and several times within their lives, until cancelled."""
        while True:
            await _tried(self.tend())
            await self._clock.sleep(self._config.hold_s / 4)

    async def keep_entering(self) -> None:
        """Enter charges soon after they are made, many at once, until cancelled."""
        while True:
            await self._charged.wait()
            await self._clock.sleep(_ENTER_S)
            await _tried(self.enter())

    async def keep_giving_back(self) -> None:
        """Return what is held in bulk for projects that ask no more, until cancelled."""
        while True:
            await self._clock.sleep(FRESH_S)
            await _tried(self._blocks.give_back())

    async def aclose(self) -> None:
        """Return all that is held in bulk and not in use, and enter charges.

        Without a database that takes it what is held expires, and charges wait for the next gateway.
        """
        await _tried(self._blocks.give_back(all=True))
        await _tried(self.enter())

    def _asked(self, run_id: str, grant: Grant, amount: int) -> Hold:
        now = self._clock.now()
        return Hold(run_id, grant.project, amount, now, now + self._config.hold_s)

    async def _exhausted(self, grant: Grant, amount: int, held: Held, advice: str = _ADVICE) -> AllocationExhausted:
        project = await self._projects.find(grant.project)
        pis = ", ".join(project.pis) if project else ""
        whom = f"its PI ({pis}) or an operator" if pis else "an operator"
        return AllocationExhausted(
            f"the project {grant.project} has {_shown(held.available)} service units left, and this request may need "
            f"{_shown(amount)}; {advice}, or ask {whom} for more"
        )


async def _tried(work: Awaitable[None]) -> None:
    """Do it; when the database cannot be reached say so: it is done again in a while."""
    try:
        await work
    except Exception:  # a server that is away for a moment must not end what keeps holds alive
        log.exception("holds or charges could not be tended")


def _shown(micro: int) -> str:
    return f"{units(micro):,.6f}".rstrip("0").rstrip(".")

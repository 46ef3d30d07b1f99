"""Holds in bulk: what a project that asks often has set aside, shared out to its requests without the database.

A block is a hold like any other: durable before it is used, renewed while its gateway lives, returned some minutes
after it died. What is known here of a block is never more than the database holds for it (decision 11).
"""

import asyncio
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from terascope.core.clock import Clock
from terascope.core.ids import new_id
from terascope.core.ledger import Hold, Redraw, Share
from terascope.store.holds import Held, HoldStore

FRESH_S = 5.0  # after which the database says again what may be used; what nobody uses for so long is given back
_OFTEN = 16  # requests within that time make a project one that asks often
_REQUESTS = 256  # as large as this one that a block is to serve


@dataclass(slots=True)
class Block:
    """One block of a project. `free` is what no request has a share of, `out` what requests that run have."""

    id: str
    allocation: str
    project: str
    drawn: float = 0.0
    free: int = 0
    out: int = 0


@dataclass(slots=True)
class _Payer:
    """A project: when it asked last, and when without a block; the one it has now; what tells that one was drawn."""

    last: float = -math.inf
    asked: deque[float] = field(default_factory=lambda: deque(maxlen=_OFTEN))
    block: Block | None = None
    drawing: asyncio.Event | None = None

    def often(self, now: float) -> bool:
        return len(self.asked) == _OFTEN and now - self.asked[0] <= FRESH_S

    def idle(self, now: float) -> bool:
        return self.drawing is None and now - self.last > FRESH_S


class Blocks:
    """The blocks of one gateway, and the shares of its requests that run."""

    def __init__(self, holds: HoldStore, clock: Clock) -> None:
        self._holds = holds
        self._clock = clock
        self._payers: dict[str, _Payer] = {}
        self._blocks: dict[str, Block] = {}
        self._shares: dict[str, tuple[Block, int]] = {}

    def take(self, run_id: str, project: str, amount: int) -> bool:
        """Give a request a share of its project's block; False when the database has to be asked."""
        payer, now = self._payers.get(project), self._clock.monotonic()
        if payer is None:
            payer = self._payers[project] = _Payer()
        payer.last, block = now, payer.block
        if block is not None and block.free >= amount and now - block.drawn <= FRESH_S:
            block.free -= amount
            block.out += amount
            self._shares[run_id] = block, amount
            return True
        payer.asked.append(now)
        return False

    async def hold(self, hold: Hold) -> Held:
        """Hold for one request, with a block for those that follow where the project asks often and has plenty.

        Durable on return. When there is not enough nothing is held, and what was free in blocks is given back.
        """
        held = await self._hold(hold)
        if held.had:
            return held
        own = [one for one in self._blocks.values() if one.project == hold.project]
        return await self._holds.hold(hold) if await self._return_left(own) else held

    async def _hold(self, hold: Hold) -> Held:
        payer = self._payers[hold.project]
        if payer.drawing is not None:  # there will be enough for this one, too
            await payer.drawing.wait()
            if self.take(hold.id, hold.project, hold.amount):
                block, amount = self._shares[hold.id]
                return Held(True, block=Share(block.id, block.allocation, amount))
        if payer.drawing or not (payer.block or payer.often(self._clock.monotonic())):
            return await self._holds.hold(hold)
        payer.drawing = asyncio.Event()
        try:
            return await self._draw(payer, hold)
        finally:
            payer.drawing.set()
            payer.drawing = None

    async def _draw(self, payer: _Payer, hold: Hold) -> Held:
        old, payer.block = payer.block, None  # nobody gets a share of it meanwhile
        if old is not None:
            old.free = 0
        known = None if old is None else Share(old.id, old.allocation, 0)
        keep = 0 if old is None else old.out
        held = await self._holds.redraw(Redraw(hold, hold.amount * _REQUESTS, new_id("block"), known, keep))
        if held.block is not None:
            drawn = held.block
            block = self._blocks.setdefault(drawn.block, Block(drawn.block, drawn.allocation, hold.project))
            block.free += drawn.amount - hold.amount
            block.out += hold.amount
            block.drawn = self._clock.monotonic()
            self._shares[hold.id] = block, hold.amount
            payer.block = block
        return held

    def shared(self, run_id: str) -> int:
        """How much a request has of a block."""
        return self._shares[run_id][1] if run_id in self._shares else 0

    def settled(self, run_id: str, cost: int) -> tuple[Block, int] | None:
        """Take back the share of a request that cost so much; return its block and how much it was.

        Its settlement is submitted without delay.
        """
        share = self._shares.pop(run_id, None)
        if share is not None:
            block, amount = share
            block.out -= amount
            if cost < amount:
                block.free += amount - cost
        return share

    def ids(self) -> list[str]:
        """The ids of all blocks, to be renewed."""
        return list(self._blocks)

    async def look(self) -> None:
        """Forget blocks that the database does not have any more, as after a time in which this process stood still."""
        known = self.ids()
        there = await self._holds.there(known) if known else set()
        self._forget(one for one in known if one not in there)

    async def give_back(self, *, all: bool = False) -> None:
        """Return what is free in blocks that nobody has used for a while, or in `all`."""
        now = self._clock.monotonic()
        for project, payer in list(self._payers.items()):
            if all or payer.idle(now):
                payer.block = None
                del self._payers[project]
        await self._return_left(list(self._blocks.values()))

    async def _return_left(self, blocks: Iterable[Block]) -> bool:
        """Return what is free in those of `blocks` of which nobody gets a share any more; whether there are any."""
        left = [one for one in blocks if self._is_left(one)]
        for block in left:
            if not block.out:
                self._forget([block.id])
            if block.free or not block.out:
                block.free = 0
                await self._holds.give_back(Share(block.id, block.allocation, block.out))
        return bool(left)

    def _is_left(self, block: Block) -> bool:
        payer = self._payers.get(block.project)  # while it draws a block, that may be the same one, anew
        return payer is None or (payer.drawing is None and payer.block is not block)

    def _forget(self, blocks: Iterable[str]) -> None:
        for one in blocks:
            self._blocks.pop(one, None)
            for payer in self._payers.values():
                if payer.block is not None and payer.block.id == one:
                    payer.block = None

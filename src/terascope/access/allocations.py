"""Grants of service units to projects, and what became of them."""

from collections.abc import Sequence
from datetime import UTC, date, datetime

from terascope.access.accounts import Accounts
from terascope.access.principal import Principal
from terascope.access.projects import Projects, Right
from terascope.core.clock import Clock
from terascope.core.errors import BadRequest
from terascope.core.ids import new_id
from terascope.core.ledger import DAY_S, Usage, day_of
from terascope.core.prices import micro
from terascope.core.projects import checked_text
from terascope.store.allocations import AllocationRow, AllocationStore, Transfer, no_allocation
from terascope.store.database import Database
from terascope.store.entries import EntryStore, Refund

MOST_UNITS = 1e9  # in one grant or transfer
_LAST_TIME = 1e11
_HALF_LIVES = 10  # what is older counts less than a thousandth


class Allocations:
    """Grants, moves, gives back and reports service units. Amounts are service units, times seconds since the epoch."""

    def __init__(self, database: Database, projects: Projects, accounts: Accounts, clock: Clock) -> None:
        self._accounts = accounts
        self._store = AllocationStore(database)
        self._entries = EntryStore(database)
        self._projects = projects
        self._clock = clock

    async def recently_used(self, half_life_s: float) -> dict[str, float]:
        """What counts today of all that projects used, in micro service units, when it counts half after so long.

        A day's use counts from its end.
        """
        now = self._clock.now()
        first = day_of(max(0.0, now - _HALF_LIVES * half_life_s))
        used: dict[str, float] = {}
        await self._accounts.enter()
        for one in await self._entries.by_day(first):
            age = max(0.0, now - (one.day + 1) * DAY_S)
            used[one.project] = used.get(one.project, 0.0) + one.used * 0.5 ** (age / half_life_s)
        return used

    async def of(self, project: str) -> list[AllocationRow]:
        """Return a project's allocations, oldest first, with what is left of each."""
        await self._accounts.enter()
        return await self._store.of(project)

    async def grant(
        self,
        who: Principal,
        project: str,
        units: float | None,
        *,
        starts: float | None = None,
        ends: float | None = None,
        note: str = "",
    ) -> AllocationRow:
        """Give a project so many units, or as many as it likes (None), from `starts` (now) to `ends` (for ever).

        Raises `BadRequest` for an amount or times that mean nothing, `NotFound` without the project.
        """
        now = self._clock.now()
        starts = now if starts is None else _time(starts, "starts")
        if ends is not None and _time(ends, "ends") <= max(starts, now):
            raise BadRequest("`ends` must be after `starts` and to come", param="ends")
        balance = 0 if units is None else _amount(units)
        note = checked_text(note, "note", empty=True)
        row = AllocationRow(new_id("alloc"), project, units is None, balance, starts, ends, note, now)
        await self._store.add(row, new_id("entry"), who.user_id)
        self._projects.forget(project)
        return row

    async def set_end(self, allocation: str, ends: float | None) -> AllocationRow:
        """Let an allocation end at another time; one that has passed ends it now. Raises `BadRequest`, `NotFound`."""
        await self._store.set_end(allocation, None if ends is None else _time(ends, "ends"))
        row = await self._get(allocation)
        self._projects.forget(row.project)
        return row

    async def transfer(
        self, who: Principal, source: str, target: str, units: float, *, note: str = ""
    ) -> tuple[AllocationRow, AllocationRow]:
        """Move units from one allocation to another; return both.

        Raises `BadRequest`, `NotFound`, and `Conflict` when the source has not as much to spare.
        """
        if source == target:
            raise BadRequest("an allocation has nothing to gain from itself; name another one", param="target")
        amount, note = _amount(units), checked_text(note, "note", empty=True)
        transfer = Transfer(new_id("entry"), source, target, amount, self._clock.now(), who.user_id, note)
        await self._store.transfer(transfer)
        return await self._get(source), await self._get(target)

    async def refund(self, who: Principal, run_id: str, *, note: str = "") -> int:
        """Give back what a request was charged; return how much, in micro service units.

        Raises `NotFound` when it was charged nothing, `Conflict` when it was given back before.
        """
        note = checked_text(note, "note", empty=True)
        await self._accounts.enter()
        return await self._entries.refund(Refund(run_id, self._clock.now(), who.user_id, note))

    async def usage(
        self,
        who: Principal,
        *,
        project: str = "",
        user: str = "",
        model: str = "",
        first: date | None = None,
        last: date | None = None,
    ) -> list[Usage]:
        """Return what was used, by project, user, model and day, from day `first` to `last` (UTC).

        By default the last 30 days. An operator sees everything, a PI and an auditor all of their project, everybody
        else their own. Raises `NotFound` for a project that `who` may not see.
        """
        today = day_of(self._clock.now())
        days = _day(first, today - 29), _day(last, today)
        projects: Sequence[str] | None = [project] if project else None
        if project:
            seen = await self._projects.require(who, project, Right.SEE)
            if not seen.allows(who, Right.AUDIT):
                user = who.user_id
        elif not who.operator:
            user = who.user_id
            projects = [row.name for row in await self._projects.visible_to(who)]
        await self._accounts.enter()
        return await self._entries.usage(*days, projects=projects, user_id=user, model=model)

    async def _get(self, allocation: str) -> AllocationRow:
        await self._accounts.enter()
        row = await self._store.get(allocation)
        if row is None:
            raise no_allocation(allocation)
        return row


def _amount(units: float) -> int:
    if not 0 < units <= MOST_UNITS or not micro(units):
        raise BadRequest(f"`units` must be a number of service units above 0 and up to {MOST_UNITS:g}", param="units")
    return micro(units)


def _time(when: float, what: str) -> float:
    if not 0 <= when < _LAST_TIME:
        raise BadRequest(f"`{what}` must be a time in seconds since 1970", param=what)
    return when


def _day(day: date | None, default: int) -> int:
    return default if day is None else day_of(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())

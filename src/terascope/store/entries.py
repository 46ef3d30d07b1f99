"""Repository of `entries`: the ledger, to which entries are only ever added."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, case, distinct, func, select

from terascope.core.errors import Conflict, NotFound
from terascope.core.ledger import EntryKind, Usage
from terascope.store.audit import audited
from terascope.store.book import Book
from terascope.store.changes import one_by_one
from terascope.store.database import Database
from terascope.store.tables import entries

DAY_S = 86_400
_USED = (EntryKind.CHARGE.value, EntryKind.REFUND.value)


@dataclass(frozen=True, slots=True)
class DayUse:
    """What a project used on a day (since the epoch), in micro service units."""

    project: str
    day: int
    used: int


@dataclass(frozen=True, slots=True)
class Refund:
    """A request's charge to be given back, by whom and why."""

    run_id: str
    now: float
    by: str
    note: str


class EntryStore:
    """Reads `entries`, and adds refunds; `Book` adds all others."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def refund(self, refund: Refund) -> int:
        """Give back what a request was charged, durably; return how much.

        Raises `NotFound` when it was charged nothing, `Conflict` when it was given back before.
        """
        return int(await audited(self._database, _refund, refund, "run.refund", refund.run_id[:60], note=refund.note))

    async def total(self, allocation: str) -> int:
        """Return the sum of an allocation's entries, which is its balance. Reads them all."""
        query = select(func.coalesce(func.sum(entries.c.amount), 0)).where(entries.c.allocation == allocation)
        async with self._database.read() as connection:
            return int((await connection.execute(query)).scalar_one())

    async def by_day(self, first: int) -> list[DayUse]:
        """Return what each project used on each day from `first` on."""
        query = select(entries.c.project, entries.c.day, func.sum(-entries.c.amount))
        query = query.where(entries.c.kind.in_(_USED), entries.c.day >= first)
        async with self._database.read() as connection:
            rows = await connection.execute(query.group_by(entries.c.project, entries.c.day))
        return [DayUse(project, day, int(used)) for project, day, used in rows]

    async def usage(
        self, first: int, last: int, *, projects: Sequence[str] | None = None, user_id: str = "", model: str = ""
    ) -> list[Usage]:
        """Return what was used from day `first` to `last` (since the epoch), by project, user, model and day."""
        requests = func.count(distinct(case((entries.c.kind == EntryKind.CHARGE.value, entries.c.id))))
        keys = (entries.c.project, entries.c.user_id, entries.c.model, entries.c.day)
        sums = (func.sum(column) for column in (entries.c.prompt_tokens, entries.c.output_tokens))
        query = select(*keys, requests, *sums, func.sum(-entries.c.amount)).group_by(*keys).order_by(*keys)
        query = query.where(entries.c.kind.in_(_USED), entries.c.day >= first, entries.c.day <= last)
        if projects is not None:
            query = query.where(entries.c.project.in_(projects))
        if user_id:
            query = query.where(entries.c.user_id == user_id)
        if model:
            query = query.where(entries.c.model == model)
        async with self._database.read() as connection:
            return [_usage(*row) for row in (await connection.execute(query)).all()]


@one_by_one
def _refund(connection: Connection, refund: Refund) -> int:
    query = select(entries).where(entries.c.id == refund.run_id, entries.c.kind == EntryKind.CHARGE.value)
    charges = connection.execute(query).mappings().all()
    if not charges:
        raise NotFound(f"the request {refund.run_id[:60]!r} was charged nothing")
    book = Book(connection, ids=(row["allocation"] for row in charges))
    entry_id = f"refund_{refund.run_id}"
    if connection.execute(
        select(entries.c.id).where(entries.c.id == entry_id)
    ).first():  # no other while we hold the lock
        raise Conflict(f"the charge of {refund.run_id} was given back before")
    for row in charges:
        book.accounts[row["allocation"]].add(-row["amount"])
        about = (row["user_id"], row["key_id"], row["model"], -row["prompt_tokens"], -row["output_tokens"])
        note = f"by {refund.by}: {refund.note}"[:200]
        kind, amount = EntryKind.REFUND, -row["amount"]
        book.enter(entry_id, row["allocation"], row["project"], kind, amount, refund.now, *about, note=note)
    book.save()
    return -sum(int(row["amount"]) for row in charges)


def day_of(when: float) -> int:
    """The day since the epoch (UTC) that a time is on."""
    return int(when // DAY_S)


def _usage(project: str, user: str, model: str, day: int, requests: int, prompt: int, output: int, used: int) -> Usage:
    date = datetime.fromtimestamp(day * DAY_S, UTC).date().isoformat()
    return Usage(project, user, model, date, int(requests), int(prompt), int(output), int(used))

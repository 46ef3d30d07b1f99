"""Repository of `entries`: the ledger, to which entries are only ever added."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson
from sqlalchemy import Connection, RowMapping, case, distinct, func, select

from terascope.core.errors import Conflict, NotFound
from terascope.core.ledger import DAY_S, EntryKind, Portion, Usage, day_of
from terascope.store.audit import audited
from terascope.store.book import Book
from terascope.store.changes import one_by_one
from terascope.store.database import Database
from terascope.store.tables import entries, runs

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
        change = (refund, await self._entry_of(refund.run_id))
        return int(await audited(self._database, _refund, change, "run.refund", refund.run_id[:60], note=refund.note))

    async def _entry_of(self, run_id: str) -> str:
        """The id of the entry in which a request was charged; empty where there is none."""
        charged = select(entries.c.id).where(entries.c.kind == EntryKind.CHARGE.value)
        together = entries.c.portions.contains(f'"{run_id}"', autoescape=True)
        async with self._database.read() as connection:
            if (await connection.execute(charged.where(entries.c.id == run_id))).first():
                return run_id
            run = (await connection.execute(select(runs).where(runs.c.id == run_id))).mappings().one_or_none()
            if run is None:
                return ""
            days = entries.c.day.between(day_of(run["started"]) - 1, day_of(run["started"] + run["total_s"]) + 1)
            of_then = charged.where(entries.c.project == run["project"], days, together)
            return str((await connection.execute(of_then)).scalar() or "")

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
        charge = entries.c.kind == EntryKind.CHARGE.value
        requests = func.count(distinct(case((charge, entries.c.id)))) + func.sum(
            case((charge, entries.c.requests - 1), else_=0)
        )
        keys = (entries.c.project, entries.c.user_id, entries.c.model, entries.c.day)
        sums = (func.sum(column) for column in (entries.c.prompt_tokens, entries.c.output_tokens, -entries.c.amount))
        query = select(*keys, requests, *sums).group_by(*keys).order_by(*keys)
        query = query.where(entries.c.kind.in_(_USED), entries.c.day >= first, entries.c.day <= last)
        if projects is not None:
            query = query.where(entries.c.project.in_(projects))
        if user_id:
            query = query.where(entries.c.user_id == user_id)
        if model:
            query = query.where(entries.c.model == model)
        async with self._database.read() as connection:
            return [_usage(*row) for row in (await connection.execute(query)).all()]


def portions(entry: RowMapping) -> list[Portion]:
    """What each request has of a charge in the ledger; amounts are what it paid."""
    if entry["portions"]:
        return [Portion(*one) for one in orjson.loads(entry["portions"])]
    return [Portion(entry["id"], -entry["amount"], entry["prompt_tokens"], entry["output_tokens"])]


@one_by_one
def _refund(connection: Connection, asked: tuple[Refund, str]) -> int:
    refund, charge = asked
    query = select(entries).where(entries.c.id == charge, entries.c.kind == EntryKind.CHARGE.value)
    charges = connection.execute(query).mappings().all()
    if not charges:
        raise NotFound(f"the request {refund.run_id[:60]!r} was charged nothing, or its record is no longer kept")
    book = Book(connection, ids=(row["allocation"] for row in charges))
    entry_id = f"refund_{refund.run_id}"
    if connection.execute(
        select(entries.c.id).where(entries.c.id == entry_id)
    ).first():  # no other while we hold the lock
        raise Conflict(f"the charge of {refund.run_id} was given back before")
    given = [(row, one) for row in charges for one in portions(row) if one.request == refund.run_id]
    for row, one in given:
        book.accounts[row["allocation"]].add(one.amount)
        about = (row["user_id"], row["key_id"], row["model"], -one.prompt_tokens, -one.output_tokens)
        note = f"by {refund.by}: {refund.note}"[:200]
        book.enter(
            entry_id, row["allocation"], row["project"], EntryKind.REFUND, one.amount, refund.now, *about, note=note
        )
    book.save()
    return sum(one.amount for _, one in given)


def _usage(project: str, user: str, model: str, day: int, requests: int, prompt: int, output: int, used: int) -> Usage:
    date = datetime.fromtimestamp(day * DAY_S, UTC).date().isoformat()
    return Usage(project, user, model, date, int(requests), int(prompt), int(output), int(used))

"""Repository of `allocations`: what projects were granted, and what is left of it."""

from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from terascope.core.errors import Conflict, NotFound
from terascope.core.ledger import EntryKind
from terascope.store.audit import audited
from terascope.store.book import Account, Book
from terascope.store.changes import one_by_one
from terascope.store.database import Database
from terascope.store.projects import check_project
from terascope.store.tables import allocations


@dataclass(frozen=True, slots=True)
class AllocationRow:
    """One allocation. `balance` is the sum of its ledger entries, `held` is set aside for requests that run.

    An `unlimited` one may go below 0. `starts` and `ends` say when it may be used; None: for ever.
    """

    id: str
    project: str
    unlimited: bool
    balance: int
    starts: float
    ends: float | None
    note: str
    created: float
    held: int = 0

    def open(self, now: float) -> bool:
        """Whether it may be used at `now`."""
        return self.starts <= now and (self.ends is None or now < self.ends)


@dataclass(frozen=True, slots=True)
class Transfer:
    """An amount to go from one allocation to another, under an id of its own."""

    id: str
    source: str
    target: str
    amount: int
    now: float
    by: str
    note: str


class AllocationStore:
    """Reads and writes `allocations`. Every change is durable on return, with its entries in the ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, row: AllocationRow, entry_id: str, by: str) -> None:
        """Store `row`; its balance is entered as a grant by the user `by`. Raises `NotFound` without the project."""
        await audited(
            self._database, _add, (row, entry_id, by), "allocation.grant", row.id, project=row.project,
            amount=row.balance, unlimited=row.unlimited, starts=row.starts, ends=row.ends, note=row.note,
        )  # fmt: skip

    async def set_end(self, allocation: str, ends: float | None) -> None:
        """Let an allocation end at another time. Raises `NotFound`."""
        await audited(self._database, _set_end, (allocation, ends), "allocation.end", allocation, ends=ends)

    async def transfer(self, transfer: Transfer) -> None:
        """Move an amount. Raises `NotFound`, and `Conflict` when the source has not as much to spare."""
        await audited(
            self._database, _transfer, transfer, "allocation.transfer", transfer.source, to=transfer.target,
            amount=transfer.amount, note=transfer.note,
        )  # fmt: skip

    async def get(self, allocation: str) -> AllocationRow | None:
        """Return the allocation of that id."""
        async with self._database.read() as connection:
            query = select(allocations).where(allocations.c.id == allocation)
            row = (await connection.execute(query)).mappings().one_or_none()
        return AllocationRow(**row) if row else None

    async def of(self, project: str) -> list[AllocationRow]:
        """Return the allocations of a project, oldest first."""
        query = select(allocations).where(allocations.c.project == project)
        async with self._database.read() as connection:
            found = await connection.execute(query.order_by(allocations.c.created, allocations.c.id))
        return [AllocationRow(**row) for row in found.mappings().all()]


@one_by_one
def _add(connection: Connection, added: tuple[AllocationRow, str, str]) -> None:
    row, entry_id, by = added
    check_project(connection, row.project)
    connection.execute(insert(allocations).values({name: getattr(row, name) for name in AllocationRow.__slots__}))
    if row.balance:
        book = Book(connection)
        book.enter(entry_id, row.id, row.project, EntryKind.GRANT, row.balance, row.created, by, note=row.note)
        book.save()


@one_by_one
def _set_end(connection: Connection, change: tuple[str, float | None]) -> None:
    allocation, ends = change
    if not connection.execute(update(allocations).where(allocations.c.id == allocation).values(ends=ends)).rowcount:
        raise no_allocation(allocation)


@one_by_one
def _transfer(connection: Connection, transfer: Transfer) -> None:
    book = Book(connection, ids=(transfer.source, transfer.target))
    source, target = (_account(book, one) for one in (transfer.source, transfer.target))
    if source.available < transfer.amount and not source.unlimited:
        raise Conflict(f"the allocation {source.id} has less than that to spare; `terascope allocations list` shows it")
    for account, amount in ((source, -transfer.amount), (target, transfer.amount)):
        account.add(amount)
        kind, when = EntryKind.TRANSFER, transfer.now
        book.enter(transfer.id, account.id, account.project, kind, amount, when, transfer.by, note=transfer.note)
    book.save()


def _account(book: Book, allocation: str) -> Account:
    if allocation not in book.accounts:
        raise no_allocation(allocation)
    return book.accounts[allocation]


def no_allocation(allocation: str) -> NotFound:
    """The error for an allocation that is not there."""
    return NotFound(f"there is no allocation {allocation[:60]!r}; `terascope allocations list PROJECT` shows them")

"""Repository of `holds`: what requests that run have set aside, and how they are settled."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from terascope.core.ledger import Hold, Redraw, Settlement, Share
from terascope.store.book import Book
from terascope.store.charges import book_with_all
from terascope.store.database import Database
from terascope.store.plain import Plain, PlainIn
from terascope.store.tables import holds

_EXPIRED_IN = Plain("SELECT DISTINCT allocation FROM holds WHERE expires <= ?")
_EXPIRED = Plain("SELECT id FROM holds WHERE expires <= ? AND allocation = ?")
_PROJECTS = PlainIn("SELECT DISTINCT project FROM allocations WHERE id IN ({})")
_RENEW = Plain("UPDATE holds SET expires = ? WHERE id = ?")


@dataclass(frozen=True, slots=True)
class Held:
    """Whether a hold was had. `unlimited` is the allocation that makes it needless; `available` what there is now.

    With a `block` nothing is held for the request alone: it takes its share of that.
    """

    had: bool
    unlimited: str = ""
    available: int = 0
    block: Share | None = None


class HoldStore:
    """Holds, extends, renews and expires; `settle` is part of writing a run record (`store/runs.py`)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def hold(self, hold: Hold) -> Held:
        """Set an amount aside on the project's allocations, durably, or nothing when there is not enough."""
        held: Held = await self._database.writer.submit(_hold, hold)
        return held

    async def redraw(self, redraw: Redraw) -> Held:
        """Hold a block if there is plenty, else for the one request if there is enough, durably."""
        held: Held = await self._database.writer.submit(_redraw, redraw)
        return held

    async def give_back(self, block: Share) -> None:
        """Bring a block down to its `amount`, durably; at 0 it is gone."""
        await self._database.writer.submit(_give_back, block)

    async def extend(self, hold: Hold) -> Held:
        """Bring what the request holds up to `hold.amount`, durably, or change nothing when there is not enough."""
        held: Held = await self._database.writer.submit(_extend, hold)
        return held

    async def renew(self, ids: Sequence[str], expires: float) -> None:
        """Let holds live longer; those that are gone stay so."""
        await self._database.writer.submit(_renew, (tuple(ids), expires))

    async def there(self, ids: Sequence[str]) -> set[str]:
        """Return those of `ids` under which something is held."""
        async with self._database.read() as connection:
            return set((await connection.execute(select(holds.c.id).where(holds.c.id.in_(ids)))).scalars())

    async def expire(self, now: float) -> int:
        """Return every hold whose time is over; return how many requests had one."""
        return int(await self._database.writer.submit(_expire, now))

    async def total(self, allocation: str = "") -> int:
        """Return the sum of all holds, or of those on one allocation."""
        query = select(func.coalesce(func.sum(holds.c.amount), 0))
        if allocation:
            query = query.where(holds.c.allocation == allocation)
        async with self._database.read() as connection:
            return int((await connection.execute(query)).scalar_one())


def settle(connection: Connection, settlements: Sequence[Settlement]) -> dict[str, int]:
    """Return holds and charge costs, in the transaction that `connection` is in.

    Returns what nobody could pay for, in micro service units, by request.
    """
    if not settlements:
        return {}
    book = Book(connection, projects=(one.project for one in settlements))
    shares = (one.share.block for one in settlements if one.share is not None)
    book.load_holds([*(one.id for one in settlements), *shares])
    uncovered = {one.id: book.settle(one) for one in settlements}
    book.save()
    return uncovered


def _hold(connection: Connection, asked: Sequence[Hold]) -> list[Held]:
    book = Book(connection, projects=(one.project for one in asked))
    held = [_one(book, one, one.amount) for one in asked]
    book.save()
    return held


def _extend(connection: Connection, asked: Sequence[Hold]) -> list[Held]:
    book = Book(connection, projects=(one.project for one in asked))
    book.load_holds(one.id for one in asked)
    held = [_one(book, one, max(0, one.amount - book.held_by(one.id))) for one in asked]
    book.save()
    return held


def _redraw(connection: Connection, asked: Sequence[Redraw]) -> list[Held]:
    # with what is due entered: what is to stay in a block is for those that still run
    book, _ = book_with_all(connection, (one.hold.project for one in asked))
    book.load_holds(one.old.block for one in asked if one.old is not None)
    held = [_block_or_one(book, one) for one in asked]
    book.save()
    return held


def _block_or_one(book: Book, redraw: Redraw) -> Held:
    if redraw.old is not None:
        book.keep(redraw.old, redraw.keep)
    block = book.block(redraw)
    return _one(book, redraw.hold, redraw.hold.amount) if block is None else Held(True, block=block)


def _give_back(connection: Connection, blocks: Sequence[Share]) -> None:
    book = _book_of(connection, [one.allocation for one in blocks])
    book.load_holds(one.block for one in blocks)
    for one in blocks:
        book.keep(one, one.amount) if one.amount else book.release(one.block)
    book.save()


def _one(book: Book, hold: Hold, amount: int) -> Held:
    unlimited = book.hold(hold.id, hold.project, amount, hold.now, hold.expires)
    if unlimited is None:
        return Held(False, available=sum(one.available for one in book.open_accounts(hold.project, hold.now)))
    return Held(True, unlimited)


def _renew(connection: Connection, asked: Sequence[tuple[tuple[str, ...], float]]) -> None:
    _RENEW.run(connection, [(expires, one) for ids, expires in asked for one in ids])


def _expire(connection: Connection, times: Sequence[float]) -> list[int]:
    return [_expire_at(connection, now) for now in times]


def _book_of(connection: Connection, allocations: Iterable[str]) -> Book:
    """A book of the projects of `allocations`; what requests cost that had shares of blocks is entered first."""
    projects = [row[0] for row in _PROJECTS.rows(connection, sorted(set(allocations)))]
    return book_with_all(connection, projects)[0]


def _expire_at(connection: Connection, now: float) -> int:
    allocations = sorted(str(row[0]) for row in _EXPIRED_IN.rows(connection, [now]))
    book = _book_of(connection, allocations)  # locked, so that nobody settles what is looked at now
    expired = {str(row[0]) for one in allocations for row in _EXPIRED.rows(connection, [now, one])}
    book.load_holds(expired)
    for one in sorted(expired):
        book.release(one)
    book.save()
    return len(expired)

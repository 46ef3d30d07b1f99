"""Repository of `charges`: what requests cost, on record but not yet on their allocations.

A charge is written with its request's record, and entered in the ledger a moment later, many at once. Until then the
block that pays for it is still held, so nothing can be spent twice. A charge is deleted where it is entered, in one
transaction: whoever gets it enters it, once. Allocations are always locked before charges are.
"""

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection

from terascope.core.ledger import Charge, Settlement
from terascope.store.book import Book
from terascope.store.database import Database
from terascope.store.insert import PlainInsert
from terascope.store.plain import Plain, PlainIn
from terascope.store.tables import charges

_block_of = itemgetter(Charge._fields.index("block"))
_COLUMNS = ", ".join(Charge._fields)
_NO_BLOCK = ("", "")
INSERT = PlainInsert(charges, Charge._fields)
_PROJECTS = Plain("SELECT DISTINCT project FROM charges")
_TAKE_OF_PROJECTS = PlainIn(f"DELETE FROM charges WHERE project IN ({{}}) RETURNING {_COLUMNS}")  # noqa: S608 - our columns
_TAKE_OF_BLOCKS = PlainIn(f"DELETE FROM charges WHERE block IN ({{}}) RETURNING {_COLUMNS}")  # noqa: S608 - our columns


class ChargeStore:
    """Enters charges in the ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def enter(self) -> list[str]:
        """Enter all charges that are on record, of all gateways, durably; return the requests that were not covered."""
        uncovered: list[str] = await self._database.writer.submit(_enter, None)
        return uncovered


def charge_row(settlement: Settlement) -> tuple[Any, ...]:
    """The row of a settlement that is `covered`, for `INSERT`."""
    return settlement[:10] + (settlement.share[:2] if settlement.share else _NO_BLOCK)


def enter_of_blocks(connection: Connection, book: Book, blocks: Sequence[str]) -> list[str]:
    """Enter the charges that are to be paid by `blocks`, looked up in `book`; return the requests not covered."""
    return book.settle_charges(_TAKE_OF_BLOCKS.rows(connection, blocks))


def _enter(connection: Connection, asked: Sequence[None]) -> list[list[str]]:
    projects = [row[0] for row in _PROJECTS.rows(connection, ())]
    if not projects:
        return [[] for _ in asked]
    book = Book(connection, projects=projects)
    taken = _TAKE_OF_PROJECTS.rows(connection, projects)
    book.load_holds(filter(None, map(_block_of, taken)))
    uncovered = book.settle_charges(taken)
    book.save()
    return [uncovered, *([] for _ in asked[1:])]

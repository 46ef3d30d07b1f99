"""Repository of `charges`: what requests cost, on record but not yet on their allocations.

Charges are written with their requests' records, those of one commit as one row, and entered in the ledger a moment
later, many at once. Until then the blocks that pay for them are still held, so nothing can be spent twice. A row is
deleted where its charges are entered, in one transaction: whoever gets it enters them, once. Allocations are always
locked before charges are. Who has written a row remembers what is in it, and need not read it again.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

import orjson
from sqlalchemy import Connection

from terascope.core.ledger import Charge
from terascope.store.book import Book
from terascope.store.database import Database
from terascope.store.insert import PlainInsert
from terascope.store.plain import Plain, PlainIn
from terascope.store.tables import charges

_block_of = itemgetter(Charge._fields.index("block"))
_project_of = itemgetter(Charge._fields.index("project"))
_WRITTEN = "charges"  # in what is known of a connection: the charges in each row that it has written
INSERT = PlainInsert(charges, ("id", "charges"))
_IDS = Plain("SELECT id FROM charges")
_READ = PlainIn("SELECT id, charges FROM charges WHERE id IN ({})")
_TAKE = PlainIn("DELETE FROM charges WHERE id IN ({}) RETURNING id")


class ChargeStore:
    """Enters charges in the ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def enter(self) -> list[str]:
        """Enter all charges that are on record, of all gateways, durably; return the requests that were not covered."""
        uncovered: list[str] = await self._database.writer.submit(_enter, None)
        return uncovered


def row_of(charged: Sequence[Charge]) -> tuple[str, str]:
    """The row of the charges of one commit, for `INSERT`."""
    return charged[0].id, orjson.dumps([*map(tuple, charged)]).decode()


def remember(connection: Connection, charged: Sequence[Charge]) -> None:
    """Their row was written on `connection`, which a row that is there already is not."""
    connection.info.setdefault(_WRITTEN, {})[charged[0].id] = charged


def _on_record(connection: Connection) -> dict[str, Sequence[Sequence[Any]]]:
    """The charges in each row that is there. What was remembered of a row that was never committed is in none."""
    written = connection.info.pop(_WRITTEN, {})
    there = [row_id for (row_id,) in _IDS.rows(connection, ())]
    others = _READ.rows(connection, [one for one in there if one not in written])
    return {one: written[one] for one in there if one in written} | {one: orjson.loads(text) for one, text in others}


def book_with_all(connection: Connection, projects: Iterable[str] = ()) -> tuple[Book, list[str]]:
    """A book of `projects` in which all charges on record are entered, not yet saved; the requests not covered."""
    rows = _on_record(connection)
    book = Book(connection, projects={*projects, *map(_project_of, chain.from_iterable(rows.values()))})
    taken = [*chain.from_iterable(rows[row_id] for (row_id,) in _TAKE.rows(connection, list(rows)))]
    book.load_holds(filter(None, map(_block_of, taken)))
    return book, book.settle_charges(taken)


def _enter(connection: Connection, asked: Sequence[None]) -> list[list[str]]:
    book, uncovered = book_with_all(connection)
    book.save()
    return [uncovered, *([] for _ in asked[1:])]

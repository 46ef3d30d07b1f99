"""Statements for the request path, where composing them anew would cost more than running them.

They are written by hand with `?` for each value; values and rows are the driver's own.
"""

from collections.abc import Sequence
from itertools import count
from typing import Any

from sqlalchemy import Connection

_LONGEST = 10  # powers of two: the store's groups have at most a thousand members


class Plain:
    """One statement. Runs within the transaction that the connection is in; raises the driver's own errors."""

    def __init__(self, statement: str) -> None:
        numbers = count(1)
        self._qmark = statement.replace(LOCK, "")
        numbered = "".join(f"${next(numbers)}" if character == "?" else character for character in statement)
        self._numbered = numbered

    def run(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Run it once for each of `rows`."""
        if rows:
            cursor = connection.connection.cursor()
            try:
                cursor.executemany(self._for(connection), rows)
            finally:
                cursor.close()

    def rows(self, connection: Connection, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Run it once and return what it finds."""
        cursor = connection.connection.cursor()
        try:
            cursor.execute(self._for(connection), tuple(values))
            return [tuple(row) for row in cursor.fetchall()]
        finally:
            cursor.close()

    def _for(self, connection: Connection) -> str:
        return self._qmark if connection.dialect.paramstyle == "qmark" else self._numbered


LOCK = " FOR UPDATE"
"""Ends a query whose rows will be changed: SQLite, which has one writer, needs no lock."""


class PlainIn:
    """A query with one list of any length in it, where `{}` stands; few statements serve all lengths."""

    def __init__(self, statement: str) -> None:
        self._sizes = [Plain(statement.format(", ".join("?" * 2**power))) for power in range(_LONGEST + 1)]

    def rows(self, connection: Connection, wanted: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Return what is found for the values in `wanted`, which are all different; nothing for none."""
        found: list[tuple[Any, ...]] = []
        for start in range(0, len(wanted), 2**_LONGEST):
            some = wanted[start : start + 2**_LONGEST]
            power = (len(some) - 1).bit_length()
            found += self._sizes[power].rows(connection, [*some, *[some[-1]] * (2**power - len(some))])
        return found

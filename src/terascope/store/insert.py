"""An INSERT for the request path, where composing the statement anew would cost more than running it."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Table


class PlainInsert:
    """Inserts rows given as tuples in the order of `columns`; values go to the driver as they are."""

    def __init__(self, table: Table, columns: Sequence[str]) -> None:
        names = ", ".join(table.c[name].name for name in columns)
        self._statement = f"INSERT INTO {table.name} ({names}) VALUES ({{}})"  # noqa: S608 - names of our own tables
        self._count = len(columns)

    def __call__(self, connection: Connection, rows: list[tuple[Any, ...]]) -> None:
        """Insert `rows`, within the transaction that `connection` is in. Raises the driver's own errors."""
        qmark = connection.dialect.paramstyle == "qmark"
        marks = ("?" if qmark else f"${number}" for number in range(1, self._count + 1))
        cursor = connection.connection.cursor()
        try:
            cursor.executemany(self._statement.format(", ".join(marks)), rows)
        finally:
            cursor.close()

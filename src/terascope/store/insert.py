"""An INSERT for the request path, where composing the statement anew would cost more than running it."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Table

from terascope.store.plain import Plain


class PlainInsert:
    """Inserts rows given as tuples in the order of `columns`; values go to the driver as they are."""

    def __init__(self, table: Table, columns: Sequence[str]) -> None:
        names = ", ".join(table.c[name].name for name in columns)
        marks = ", ".join("?" * len(columns))
        self.width = len(columns)
        self.into = f"INSERT INTO {table.name} ({names})"
        self.statement = f"{self.into} VALUES ({marks})"
        self._plain = Plain(self.statement)

    def __call__(self, connection: Connection, rows: list[tuple[Any, ...]]) -> None:
        """Insert `rows`, within the transaction that `connection` is in. Raises the driver's own errors."""
        self._plain.run(connection, rows)


class PlainInsertWith:
    """Inserts rows, and one row of another table: in one statement where a server is asked, to save a round trip."""

    def __init__(self, rows: PlainInsert, one: PlainInsert) -> None:
        self._rows = rows
        self._one = one
        into, marks = one.into, ", ".join("?" * one.width)
        self._both = Plain(f"WITH rows AS ({rows.statement}) {into} SELECT {marks} WHERE ?")
        self._none = (*(None,) * one.width, False)

    def __call__(self, connection: Connection, rows: list[tuple[Any, ...]], one: tuple[Any, ...]) -> None:
        """Insert `rows`, at least one, and `one`, within the transaction that `connection` is in."""
        if connection.dialect.paramstyle == "qmark":
            self._rows(connection, rows)
            self._one(connection, [one])
        else:
            others = [row + self._none for row in rows[1:]]
            self._both.run(connection, [(*rows[0], *one, True), *others])

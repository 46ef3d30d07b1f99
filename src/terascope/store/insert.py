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
        self.statement = f"INSERT INTO {table.name} ({names}) VALUES ({marks})"  # noqa: S608 - our own tables
        self._plain = Plain(self.statement)

    def __call__(self, connection: Connection, rows: list[tuple[Any, ...]]) -> None:
        """Insert `rows`, within the transaction that `connection` is in. Raises the driver's own errors."""
        self._plain.run(connection, rows)


class PlainInserts:
    """Two of them that go together: one statement where a server is asked, which saves a round trip."""

    def __init__(self, first: PlainInsert, second: PlainInsert) -> None:
        self._first = first
        self._second = second
        self._both = Plain(f"WITH first AS ({first.statement}) {second.statement}")

    def __call__(self, connection: Connection, first: list[tuple[Any, ...]], second: list[tuple[Any, ...]]) -> None:
        """Insert as many rows by the one as by the other, within the transaction that `connection` is in."""
        if connection.dialect.paramstyle == "qmark":
            self._first(connection, first)
            self._second(connection, second)
        else:
            self._both.run(connection, [one + other for one, other in zip(first, second, strict=True)])

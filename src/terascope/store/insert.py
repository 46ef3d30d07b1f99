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
        self._statement = Plain(f"INSERT INTO {table.name} ({names}) VALUES ({marks})")  # noqa: S608 - our own tables

    def __call__(self, connection: Connection, rows: list[tuple[Any, ...]]) -> None:
        """Insert `rows`, within the transaction that `connection` is in. Raises the driver's own errors."""
        self._statement.run(connection, rows)

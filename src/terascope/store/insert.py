"""An INSERT for the request path, where composing the statement anew would cost more than running it.

SQLite gets row by row; a server gets the columns of all rows as arrays, in one statement, which costs it and the way
there less.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, Connection, Float, Integer, String, Table
from sqlalchemy.types import TypeEngine

from terascope.store.plain import Plain

_ARRAYS: dict[type[TypeEngine[Any]], str] = {
    String: "text",
    JSON: "text",
    Float: "float8",
    BigInteger: "int8",
    Boolean: "bool",
    Integer: "int4",
}


class PlainInsert:
    """Inserts rows given as tuples in the order of `columns`; values go to the driver as they are."""

    def __init__(self, table: Table, columns: Sequence[str]) -> None:
        into = f"INSERT INTO {table.name} ({', '.join(table.c[name].name for name in columns)})"
        self.row = f"{into} VALUES ({', '.join('?' * len(columns))})"
        types = [table.c[name].type for name in columns]
        arrays = ", ".join(f"?::{_array_of(one)}[]" for one in types)
        names = [f"c{number}" for number in range(len(columns))]
        values = (f"{name}::json" if isinstance(one, JSON) else name for name, one in zip(names, types, strict=True))
        self.rows = f"{into} SELECT {', '.join(values)} FROM unnest({arrays}) AS rows({', '.join(names)})"  # noqa: S608 - our own tables
        self._row, self._rows = Plain(self.row), Plain(self.rows)

    def __call__(self, connection: Connection, rows: list[tuple[Any, ...]]) -> None:
        """Insert `rows`, within the transaction that `connection` is in. Raises the driver's own errors."""
        if not rows or connection.dialect.paramstyle == "qmark":
            self._row.run(connection, rows)
        else:
            self._rows.rows(connection, _columns_of(rows))


class PlainInsertWith:
    """Inserts rows, and one row of another table: in one statement where a server is asked."""

    def __init__(self, rows: PlainInsert, one: PlainInsert) -> None:
        self._rows = rows
        self._one = one
        self._both = Plain(f"WITH rows AS ({rows.rows}) {one.row}")

    def __call__(self, connection: Connection, rows: list[tuple[Any, ...]], one: tuple[Any, ...]) -> None:
        """Insert `rows`, at least one, and `one`, within the transaction that `connection` is in."""
        if connection.dialect.paramstyle == "qmark":
            self._rows(connection, rows)
            self._one(connection, [one])
        else:
            self._both.rows(connection, [*_columns_of(rows), *one])


def _columns_of(rows: list[tuple[Any, ...]]) -> list[list[Any]]:
    """The values of each column."""
    return [*map(list, zip(*rows, strict=True))]


def _array_of(column: TypeEngine[Any]) -> str:
    return next(name for kind, name in _ARRAYS.items() if isinstance(column, kind))

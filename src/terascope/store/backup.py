"""Every table into a backup, at one moment while gateways write, and back into a database of either kind.

A table is a part of the archive: one JSON array a line, first the names of the columns, then the rows
(docs/decisions/0014-backups.md).
"""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import JSON, URL, Connection, Float, MetaData, Table, delete, insert, inspect, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from terascope.core.errors import BackupUnusable, ConfigError, Conflict
from terascope.store.archive import Archive, ArchiveWriter
from terascope.store.audit import enter
from terascope.store.database import APPLICATION, Database, checked, unusable
from terascope.store.insert import PlainInsert
from terascope.store.migrate import HEAD, current, known, migrate
from terascope.store.tables import metadata, replicas

LEFT_OUT = (replicas.name,)
"""The processes and jobs of one machine: a gateway elsewhere, or beside, must not take them for its own."""
_VERSION = "alembic_version"
_BATCH = 1000
_OTHERS = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = :name "
    "AND pid <> pg_backend_pid()"
)
_FUNCTIONS = text(
    "SELECT DISTINCT tgfoid::regprocedure::text FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid "
    "WHERE NOT tgisinternal AND relname = ANY(:tables) AND pg_table_is_visible(pg_class.oid)"
)
Row = tuple[Any, ...]


async def schema_of(url: str) -> str:
    """The schema of the database at `url`, empty when no gateway has used it. Raises `ConfigError`."""
    target = checked(url)
    if _is_missing(target):
        return ""  # to connect would make it
    async with _connection(target) as connection:
        return await connection.run_sync(current)


def _is_missing(url: URL) -> bool:
    return url.get_backend_name() == "sqlite" and not Path(url.database or "").exists()


async def dump(database: Database, archive: ArchiveWriter) -> int:
    """Write every table, as all were at one moment; return how many rows. Raises `OSError`."""
    rows = 0
    async with database.snapshot() as connection:
        for table in metadata.sorted_tables:
            if table.name not in LEFT_OUT:
                rows += await _dump(connection, table, archive)
    return rows


async def _dump(connection: AsyncConnection, table: Table, archive: ArchiveWriter) -> int:
    count = 0
    floats = [number for number, column in enumerate(table.c) if isinstance(column.type, Float)]
    with archive.part(_part(table.name)) as part:
        part.write([_line([column.name for column in table.c])])
        found = await connection.stream(select(table).execution_options(yield_per=_BATCH))
        async for rows in found.partitions():
            part.write([_line(_finite(list(row), floats)) for row in rows])
            count += len(rows)
    return count


def _line(values: Sequence[Any]) -> bytes:
    return orjson.dumps(values, option=orjson.OPT_APPEND_NEWLINE)


def _finite(values: list[Any], floats: Sequence[int]) -> list[Any]:
    """`values`, with infinities as text, for which JSON has no number."""
    for number in floats:
        if values[number] is not None and not isfinite(values[number]):
            values[number] = repr(values[number])
    return values


async def load(url: str, archive: Archive, *, replace: bool = False) -> int:
    """Make the database at `url` what `archive` says, brought to the newest schema; return how many rows it has.

    All in one transaction: on any raise and on cancellation the database is as it was. Raises `BackupUnusable`,
    `ConfigError` when the database cannot be used, and `Conflict` when a gateway uses it, or has used it and not
    `replace`. The archive has been checked.
    """
    check_schema(archive)
    async with _connection(checked(url)) as connection:
        await _alone(connection)
        return await connection.run_sync(_load, archive, replace)


def check_schema(archive: Archive) -> None:
    """Raise `BackupUnusable` when the archive is of a schema that this program does not know."""
    if not known(archive.manifest.schema):
        raise BackupUnusable(
            f"the backup is of a newer Terascope ({archive.manifest.version}, schema {archive.manifest.schema}; this "
            f"has {HEAD}); restore it with that one"
        )


@asynccontextmanager
async def _connection(url: URL) -> AsyncIterator[AsyncConnection]:
    """A connection in a transaction that is committed at the end of the block."""
    sqlite = url.get_backend_name() == "sqlite"
    engine = create_async_engine(
        url.set(drivername="sqlite+aiosqlite" if sqlite else "postgresql+asyncpg"), hide_parameters=True
    )
    try:
        async with engine.begin() as connection:
            yield connection
    except (OSError, DBAPIError) as error:
        raise unusable(url, error) from error
    finally:
        await engine.dispose()


async def _alone(connection: AsyncConnection) -> None:
    """Begin to write, and see to it that no gateway uses the database."""
    if connection.dialect.name == "sqlite":
        try:
            # without its log the file can only be had alone: that is refused while anybody has it open
            await connection.exec_driver_sql("PRAGMA journal_mode=DELETE")
            await connection.exec_driver_sql("BEGIN EXCLUSIVE")  # the driver begins none for CREATE TABLE
        except DBAPIError as error:
            raise _in_use(str(error.orig)) from None
        return
    await connection.execute(text("SET LOCAL lock_timeout = '10s'"))  # for a table that others look at
    if others := (await connection.execute(_OTHERS, {"name": APPLICATION})).scalar_one():
        raise _in_use(f"{others} connections")


def _in_use(how: str) -> Conflict:
    return Conflict(f"a gateway uses the database ({how}); stop it first")


def _load(connection: Connection, archive: Archive, replace: bool) -> int:
    there = current(connection)
    if there and not known(there):
        raise ConfigError(
            f"the database is of a newer Terascope (schema {there}, this is {HEAD}); restore into an empty one"
        )
    if there and not replace:
        raise Conflict("the database is not empty: a gateway has used it; restore with --replace to lose what is in it")
    left = _emptied(connection)
    migrate(connection, archive.manifest.schema)
    rows = _filled(connection, archive)
    migrate(connection)
    for row in left:
        connection.execute(insert(replicas), row)
    enter(
        connection, "restore", "database", version=archive.manifest.version, schema=archive.manifest.schema,
        of=archive.manifest.time, rows=rows,
    )  # fmt: skip
    return rows


def _emptied(connection: Connection) -> list[dict[str, Any]]:
    """Drop our tables; return the rows of `replicas`: the next gateway stops what was left on this machine."""
    ours = _reflected(connection, [*metadata.tables, _VERSION])
    there = ours.tables.get(replicas.name)
    left = [] if there is None else [dict(row) for row in connection.execute(select(there)).mappings()]
    functions = [] if connection.dialect.name == "sqlite" else _trigger_functions(connection, list(ours.tables))
    ours.drop_all(connection)
    for name in functions:  # which a table does not take with it
        connection.execute(text(f"DROP FUNCTION {name}"))
    return left


def _trigger_functions(connection: Connection, tables: Sequence[str]) -> list[str]:
    return list(connection.execute(_FUNCTIONS, {"tables": tables}).scalars())


def _filled(connection: Connection, archive: Archive) -> int:
    """Fill the tables of the archive's schema, whatever the newest looks like."""
    ours = _reflected(connection, inspect(connection).get_table_names())
    tables = [table for table in ours.sorted_tables if table.name not in (*LEFT_OUT, _VERSION)]
    if {part.name for part in archive.manifest.parts} != {_part(table.name) for table in tables}:
        raise BackupUnusable(f"the backup does not have the tables of schema {archive.manifest.schema}")
    for table in reversed(tables):
        if connection.execute(select(table).limit(1)).first():  # a new schema has the project `local`
            connection.execute(delete(table))
    return sum(_fill(connection, table, archive.lines(_part(table.name))) for table in tables)


def _reflected(connection: Connection, names: Sequence[str]) -> MetaData:
    found = MetaData()
    there = inspect(connection).get_table_names()
    found.reflect(connection, only=[name for name in names if name in there])
    return found


def _fill(connection: Connection, table: Table, lines: Iterator[bytes]) -> int:
    try:
        columns = [str(name) for name in orjson.loads(next(lines))]
        add = PlainInsert(table, columns)
        kept = [_kept(table.c[name].type) for name in columns]
        count = 0
        while some := list(islice(lines, _BATCH)):
            add(connection, [_row(line, kept) for line in some])
            count += len(some)
        return count
    except (StopIteration, KeyError, TypeError, ValueError) as error:
        raise BackupUnusable(f"the backup's table {table.name} is not what Terascope writes: {error}") from error
    except connection.dialect.loaded_dbapi.Error as error:
        raise BackupUnusable(f"the table {table.name} cannot be restored: {error}") from error


def _row(line: bytes, kept: Sequence[Callable[[Any], Any]]) -> Row:
    return tuple(keep(value) for keep, value in zip(kept, orjson.loads(line), strict=True))


def _kept(kind: object) -> Callable[[Any], Any]:
    """How a value of that column goes to the driver."""
    if isinstance(kind, JSON):
        return lambda value: orjson.dumps(value).decode()
    if isinstance(kind, Float):
        return lambda value: None if value is None else float(value)
    return lambda value: value


def _part(table: str) -> str:
    return f"tables/{table}.jsonl"

"""What is in a database is in its backup, as it was at one moment, and in the database that is made of it."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    Integer,
    String,
    Table,
    delete,
    insert,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError

from terascope.core.audit import Actor, acting_as
from terascope.core.errors import BackupUnusable, ConfigError, Conflict
from terascope.store import backup
from terascope.store.archive import new_archive, opened_archive
from terascope.store.audit import AuditStore
from terascope.store.database import Database, sqlite_url
from terascope.store.keys import KeyStore
from terascope.store.migrate import HEAD
from terascope.store.projects import ProjectRow, ProjectStore
from terascope.store.replicas import ReplicaRow, ReplicaStore
from terascope.store.tables import audit, metadata, replicas
from terascope.testing.databases import new_sqlite
from terascope.testing.postgres import PostgresCluster

Rows = dict[str, list[tuple[Any, ...]]]
COPIED = [table for table in metadata.sorted_tables if table is not replicas]


@pytest.fixture(params=["sqlite", "postgresql"])
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of another empty database, of either kind."""
    if request.param == "sqlite":
        yield sqlite_url(tmp_path / "other.db")
        return
    cluster: PostgresCluster = request.getfixturevalue("postgres")
    name = cluster.create()
    yield cluster.url(name)
    cluster.drop(name)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    database = await Database.open(url)
    try:
        yield database
    finally:
        await database.aclose()


async def contents(database: Database) -> Rows:
    """Every row of every table that is copied, in some order of its own."""
    async with database.read() as connection:
        return {
            table.name: sorted(map(tuple, (await connection.execute(select(table))).all()), key=repr)
            for table in COPIED
        }


async def backed_up(database: Database, path: Path, schema: str = HEAD) -> Path:
    with new_archive(path, version="0", schema=schema, time=7.0) as archive:
        await backup.dump(database, archive)
    return path


async def restored(path: Path, url: str, *, replace: bool = False) -> int:
    with opened_archive(path) as archive:
        archive.check()
        return await backup.load(url, archive, replace=replace)


JSON_SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
)
SEEDS = ("local", "alloc_local", "*")  # a new database's own, to which other rows may point


def texts(length: int | None) -> st.SearchStrategy[str]:
    found = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=min(length or 50, 50))
    return found.filter(lambda value: value not in SEEDS)


def values(column: Column[Any]) -> st.SearchStrategy[Any]:
    """Any value that a column takes."""
    if column.foreign_keys:
        return st.just("local" if column.name == "project" else "alloc_local")
    found = _values(column.type)
    return found | st.none() if column.nullable else found


def _values(kind: object) -> st.SearchStrategy[Any]:
    match kind:
        case JSON():
            return st.dictionaries(texts(5), st.lists(JSON_SCALARS | texts(9), max_size=3), max_size=3)
        case Boolean():
            return st.booleans()
        case Float():
            return st.floats(allow_nan=False)
        case BigInteger():
            return st.integers(-(2**63), 2**63 - 1)
        case Integer():
            return st.integers(-(2**31), 2**31 - 1)
        case String():
            return texts(kind.length)
        case _:
            raise AssertionError(kind)


def rows_of(table: Table) -> st.SearchStrategy[list[dict[str, Any]]]:
    row = {column.name: values(column) for column in table.c}
    if table.name == "allocations":  # what its constraints ask for
        row |= {"unlimited": st.just(True), "held": st.integers(0, 2**63 - 1)}
    unique = [[column.name for column in table.primary_key if not column.foreign_keys]]
    unique += [[column.name] for column in table.c if column.unique]
    differs = tuple(partial(_values_of, names) for names in unique)
    return st.lists(st.fixed_dictionaries(row), max_size=4, unique_by=differs)


def _values_of(names: list[str], row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in names)


def joined(rows: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """With rows that point to others pointing to some that are there; without them where there are none."""
    for table in COPIED:
        for key in table.foreign_keys:
            if key.column.table.name not in ("projects", "allocations"):
                found = [one[key.column.name] for one in rows[key.column.table.name]]
                mine = rows[table.name] if found else []
                rows[table.name] = [one | {key.parent.name: found[n % len(found)]} for n, one in enumerate(mine)]
    return rows


def _fill(connection: Connection, rows: dict[str, list[dict[str, Any]]]) -> None:
    for table in COPIED:
        if rows.get(table.name):
            connection.execute(insert(table), rows[table.name])


@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(rows=st.fixed_dictionaries({table.name: rows_of(table) for table in COPIED}).map(joined))
def test_every_value_comes_through_either_database(other: str, tmp_path: Path, rows: dict[str, Any]) -> None:
    asyncio.run(_there_and_back(other, tmp_path, rows))


async def _there_and_back(other: str, tmp_path: Path, rows: dict[str, Any]) -> None:
    with TemporaryDirectory(dir=tmp_path) as place:
        directory = Path(place)
        async with opened(new_sqlite(directory / "first.db")) as first:
            await first.writer.submit(lambda connection, _: _fill(connection, rows), None)
            expected = await contents(first)
            await backed_up(first, directory / "first")
        assert await restored(directory / "first", other, replace=True) == sum(map(len, expected.values()))
        async with opened(other) as second:
            assert without_restores(await contents(second)) == expected
            await backed_up(second, directory / "second")
        await restored(directory / "second", sqlite_url(directory / "third.db"))
        async with opened(sqlite_url(directory / "third.db")) as third:
            assert without_restores(await contents(third)) == expected


def without_restores(rows: Rows) -> Rows:
    """All but what restoring itself writes into the audit log."""
    action = list(audit.c).index(audit.c.action)
    return rows | {"audit": [row for row in rows["audit"] if row[action] != "restore"]}


async def test_a_backup_is_of_one_moment(database: Database, tmp_path: Path, other: str) -> None:
    """Rows that come while tables are read are in none of them."""
    await ProjectStore(database).add(ProjectRow("before", "", 1.0))
    expected = await contents(database)
    async with database.snapshot() as connection:
        assert len((await connection.execute(select(metadata.tables["projects"]))).all()) == 2
        await ProjectStore(database).add(ProjectRow("meanwhile", "", 1.0))  # and is not kept waiting
        found = {table.name: (await connection.execute(select(table))).all() for table in COPIED}
    assert {name: sorted(map(tuple, rows), key=repr) for name, rows in found.items()} == expected
    await backed_up(database, tmp_path / "after")
    await restored(tmp_path / "after", other)
    async with opened(other) as copy:
        assert [row.name for row in await ProjectStore(copy).all()] == ["before", "local", "meanwhile"]
        with pytest.raises(DBAPIError, match="append-only"):
            await copy.writer.submit(lambda connection, _: connection.execute(delete(audit)).all(), None)


async def test_more_rows_than_go_at_once(tmp_path: Path, other: str) -> None:
    same = {"action": "", "target": "", "details": {}, "user_id": "", "key_id": "", "address": ""}
    rows = [{"id": f"{n}", "time": n} | same for n in range(2500)]
    async with opened(new_sqlite(tmp_path / "first.db")) as first:
        await first.writer.submit(lambda connection, _: _fill(connection, {"audit": rows}), None)
        await backed_up(first, tmp_path / "x")
    await restored(tmp_path / "x", other)
    async with opened(other) as copy:
        assert len(await AuditStore(copy).newest(9999)) == 2501


async def test_who_restored_what_is_in_the_audit_log(tmp_path: Path, other: str) -> None:
    async with opened(new_sqlite(tmp_path / "first.db")) as first:
        await backed_up(first, tmp_path / "x")
    with acting_as(Actor("ada", "", "here")):
        await restored(tmp_path / "x", other)
    async with opened(other) as copy:
        [entry] = await AuditStore(copy).newest(9)
    assert (entry.action, entry.user_id, entry.address) == ("restore", "ada", "here")
    assert entry.details == {"version": "0", "schema": HEAD, "of": 7.0, "rows": 3}


async def test_replicas_stay_on_their_machine(tmp_path: Path, other: str) -> None:
    async with opened(new_sqlite(tmp_path / "first.db")) as first:
        await ReplicaStore(first).add(ReplicaRow("there", "d", "m@1", "e", "local", handle={"pid": 1}))
        await backed_up(first, tmp_path / "x")
    async with opened(other) as second:
        here = ReplicaRow("here", "d", "m@1", "e", "local", handle={"pid": 2})
        await ReplicaStore(second).add(here)
    await restored(tmp_path / "x", other, replace=True)
    async with opened(other) as second:
        assert await ReplicaStore(second).unfinished() == [here]


async def test_a_backup_of_an_older_schema_is_brought_to_the_newest(tmp_path: Path, other: str) -> None:
    """As an older program wrote it: with the tables and columns of its time."""
    with new_archive(tmp_path / "old", version="0", schema="0002", time=1.0) as archive:
        columns = ["id", "name", "prefix", "sha256", "scopes", "created", "expires", "revoked"]
        for name in ("aliases", "keys", "models", "runs"):
            with archive.part(f"tables/{name}.jsonl") as part:
                part.write([orjson.dumps(columns if name == "keys" else ["id" if name == "runs" else "name"]) + b"\n"])
                if name == "keys":
                    part.write([orjson.dumps(["key_1", "ada", "tera-1", "a", ["operator"], 1.0, None, "inf"]) + b"\n"])
    assert await restored(tmp_path / "old", other) == 1
    async with opened(other) as database:
        [row] = await KeyStore(database).all()
        assert (row.user_id, row.project, row.scopes, row.revoked) == ("ada", "local", ("operator",), math.inf)


@pytest.fixture
async def used(other: str) -> AsyncIterator[Rows]:
    """What is in the other database, which a gateway has used; it is the same in the end."""
    async with opened(other) as database:
        await ProjectStore(database).add(ProjectRow("mine", "", 1.0))
        before = await contents(database)
    yield before
    async with opened(other) as database:
        assert await contents(database) == before


async def test_a_database_that_was_used_is_left_alone(tmp_path: Path, other: str, used: Rows) -> None:
    async with opened(new_sqlite(tmp_path / "first.db")) as first:
        await backed_up(first, tmp_path / "x")
    with pytest.raises(Conflict, match=r"is not empty.*--replace"):
        await restored(tmp_path / "x", other)


async def test_a_database_in_use_is_left_alone(tmp_path: Path, other: str, used: Rows) -> None:
    async with opened(other) as database:
        await backed_up(database, tmp_path / "x")
        with pytest.raises(Conflict, match="a gateway uses the database"):
            await restored(tmp_path / "x", other, replace=True)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([b'["name"]\n', b'["a", "b"]\n'], "projects is not what Terascope writes"),
        ([b'["name", "nonsense"]\n'], "projects is not what Terascope writes"),
        ([b'["name", "created; DROP TABLE projects"]\n'], "projects is not what Terascope writes"),
        ([b'["name", "title", "created"]\n', b'["a", "b", 1]\n', b"half"], "projects is not what Terascope writes"),
        ([b'["name", "title", "created"]\n', b'["a", "b", "c"]\n'], "projects is not what Terascope writes"),
        ([b"7\n"], "projects is not what Terascope writes"),
        ([], "projects is not what Terascope writes"),
        ([b'["name", "title", "created"]\n', *[b'["a", "b", 1]\n'] * 2], "projects cannot be restored: "),
    ],
)
async def test_rows_that_mean_nothing_change_nothing(
    tmp_path: Path, other: str, used: Rows, lines: list[bytes], told: str
) -> None:
    with new_archive(tmp_path / "x", version="0", schema=HEAD, time=7.0) as archive:
        for table in COPIED:
            with archive.part(f"tables/{table.name}.jsonl") as part:
                part.write(lines if table.name == "projects" else [orjson.dumps([table.c[0].name]) + b"\n"])
    with pytest.raises(BackupUnusable, match=told):
        await restored(tmp_path / "x", other, replace=True)


@pytest.mark.parametrize(
    ("schema", "told"), [("0099", "newer Terascope"), ("", "newer Terascope"), (HEAD, "does not have the tables")]
)
async def test_schemas_that_cannot_be_restored(tmp_path: Path, other: str, used: Rows, schema: str, told: str) -> None:
    with new_archive(tmp_path / "x", version="9", schema=schema, time=7.0):
        pass
    with pytest.raises(BackupUnusable, match=told):
        await restored(tmp_path / "x", other, replace=True)


async def test_a_newer_database_is_left_alone(tmp_path: Path, other: str) -> None:
    """Which of its tables are ours, only the newer program knows."""
    async with opened(other) as database:
        await backed_up(database, tmp_path / "x")
        await database.writer.submit(lambda connection, _: _set_revision(connection), None)
    with pytest.raises(ConfigError, match=r"newer Terascope .* restore into an empty one"):
        await restored(tmp_path / "x", other, replace=True)


def _set_revision(connection: Connection) -> None:
    connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))


async def test_the_schema_of_a_database(tmp_path: Path, other: str) -> None:
    assert await backup.schema_of(other) == ""
    assert await backup.schema_of(sqlite_url(tmp_path / "none.db")) == ""
    assert not (tmp_path / "none.db").exists()
    async with opened(other):
        assert await backup.schema_of(other) == HEAD
    with pytest.raises(ConfigError, match="cannot be used"):
        await backup.schema_of("postgresql://ada:secret@127.0.0.1:9/x")

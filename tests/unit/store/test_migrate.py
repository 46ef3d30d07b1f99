"""A database is brought to the newest schema, once; a newer one is refused."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from terascope.core.errors import ConfigError
from terascope.store.charges import ChargeStore
from terascope.store.database import Database, sqlite_url
from terascope.store.entries import EntryStore
from terascope.store.keys import KeyStore
from terascope.store.members import MemberStore
from terascope.store.migrate import HEAD, current, migrate
from terascope.store.tables import metadata
from terascope.testing.postgres import PostgresCluster


@pytest.fixture
def empty(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a database without tables."""
    if kind != "postgresql":
        yield sqlite_url(tmp_path / "test.db")
        return
    cluster: PostgresCluster = request.getfixturevalue("postgres")
    name = cluster.create()
    yield cluster.url(name)
    cluster.drop(name)


async def test_the_newest_schema_is_reached_and_kept(empty: str) -> None:
    for _ in range(2):
        await _is_newest(empty)


async def test_other_tests_begin_with_the_newest_schema(url: str) -> None:
    await _is_newest(url)


async def _is_newest(url: str) -> None:
    database = await Database.open(url)
    async with database.read() as connection:
        assert await connection.run_sync(current) == HEAD
        assert await connection.run_sync(_differences) == []
    await database.aclose()


def _differences(connection: Connection) -> list[object]:
    return list(compare_metadata(MigrationContext.configure(connection), metadata))


async def test_a_database_of_a_newer_program_is_refused(empty: str) -> None:
    database = await Database.open(empty)
    await database.writer.submit(lambda connection, _: _set_revision(connection), None)
    await database.aclose()
    with pytest.raises(ConfigError, match="newer Terascope"):
        await Database.open(empty)


def _set_revision(connection: Connection) -> None:
    connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))


@pytest.mark.parametrize("kind", ["postgresql"])
async def test_gateways_that_start_together_migrate_once(empty: str) -> None:
    databases = await asyncio.gather(*(Database.open(empty) for _ in range(4)))
    for database in databases:
        await database.aclose()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("nothing", "is no URL; write one like postgresql://"),
        ("mysql://x@y/z", "is of mysql; Terascope takes sqlite and postgresql"),
        ("postgresql://ada:secret@127.0.0.1:9/x", "cannot be used"),
        ("sqlite:////nowhere/at/all.db", "cannot be used: unable to open database file"),
    ],
)
async def test_a_wrong_url_is_a_clear_error(wrong: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as raised:
        await Database.open(wrong)
    assert "secret" not in raised.value.message


_OLD_KEYS = """
INSERT INTO keys (id, name, prefix, sha256, scopes, created) VALUES
('key_1', 'first key', 'tera-1', 'a', '["operator"]', 1), ('key_2', 'ada', 'tera-2', 'b', '["query"]', 2),
('key_3', 'ada', 'tera-3', 'c', '["embed"]', 3)
"""


def _before_projects(connection: Connection) -> None:
    migrate(connection, "0002")
    connection.execute(text(_OLD_KEYS))


async def test_keys_from_before_projects_are_in_the_local_one(empty: str) -> None:
    await _in_transaction(empty, _before_projects)
    database = await Database.open(empty)
    rows = await KeyStore(database).all()
    assert [(row.user_id, row.project) for row in rows] == [("first key", "local"), ("ada", "local"), ("ada", "local")]
    found = await MemberStore(database).of("local")
    assert [(row.user_id, row.role) for row in found] == [("ada", "member"), ("first key", "pi")]
    await database.aclose()


async def _in_transaction(url: str, work: Callable[[Connection], None]) -> None:
    target = make_url(url)
    driver = "sqlite+aiosqlite" if target.get_backend_name() == "sqlite" else "postgresql+asyncpg"
    engine = create_async_engine(target.set(drivername=driver))
    async with engine.begin() as connection:
        await connection.run_sync(work)
    await engine.dispose()


_OLD_CHARGES = (
    "INSERT INTO projects (name, title, created, shares) VALUES ('p', '', 0, 1)",
    "INSERT INTO allocations (id, project, unlimited, balance, held, starts, note, created) "
    "VALUES ('alloc_1', 'p', true, 0, 0, 0, '', 0), ('alloc_2', 'p', false, 5, 0, 0, '', 0)",
    "INSERT INTO charges VALUES ('req_1', 'p', 7, 99.5, 'alloc_1', 'ada', 'key_1', 'm@1', 2, 3, '', '')",
    "INSERT INTO charges VALUES ('req_2', 'p', 8, 99.5, 'alloc_1', 'ada', 'key_1', 'm@1', 2, 3, '', '')",
    "INSERT INTO entries VALUES "
    "('req_0', 'alloc_1', 'p', 'charge', -5, 1, 0, 'ada', 'key_1', 'm@1', 2, 3, ''), "
    "('req_0', 'alloc_2', 'p', 'charge', -1, 1, 0, 'ada', 'key_1', 'm@1', 0, 0, '')",
)


def _with_charges(connection: Connection) -> None:
    migrate(connection, "0017")
    for statement in _OLD_CHARGES:
        connection.execute(text(statement))


async def test_charges_from_before_are_entered(empty: str) -> None:
    await _in_transaction(empty, _with_charges)
    database = await Database.open(empty)
    assert await ChargeStore(database).enter() == []
    [used] = await EntryStore(database).usage(0, 9)
    assert (used.requests, used.prompt_tokens, used.output_tokens, used.amount) == (3, 6, 9, 21)
    assert await EntryStore(database).total("alloc_1") == -20
    await database.aclose()


def _replicate(connection: Connection) -> None:
    connection.execute(text("CREATE PUBLICATION p FOR ALL TABLES"))


async def test_charges_are_entered_where_all_tables_are_replicated(empty: str) -> None:
    await _in_transaction(empty, _with_charges)
    database = await Database.open(empty)
    if not empty.startswith("sqlite"):
        await _in_transaction(empty, _replicate)
    assert await ChargeStore(database).enter() == []
    [used] = await EntryStore(database).usage(0, 9)
    assert used.requests == 3
    await database.aclose()

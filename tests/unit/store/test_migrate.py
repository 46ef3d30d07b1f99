"""A database is brought to the newest schema, once; a newer one is refused."""

import asyncio

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from terascope.core.errors import ConfigError
from terascope.store.database import Database
from terascope.store.migrate import HEAD, current
from terascope.store.tables import metadata


async def test_the_newest_schema_is_reached_and_kept(url: str) -> None:
    for _ in range(2):
        database = await Database.open(url)
        async with database.read() as connection:
            assert await connection.run_sync(current) == HEAD
            assert await connection.run_sync(_differences) == []
        await database.aclose()


def _differences(connection: Connection) -> list[object]:
    return list(compare_metadata(MigrationContext.configure(connection), metadata))


async def test_a_database_of_a_newer_program_is_refused(url: str) -> None:
    database = await Database.open(url)
    await database.writer.submit(lambda connection, _: _set_revision(connection), None)
    await database.aclose()
    with pytest.raises(ConfigError, match="newer Terascope"):
        await Database.open(url)


def _set_revision(connection: Connection) -> None:
    connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))


@pytest.mark.parametrize("kind", ["postgresql"])
async def test_gateways_that_start_together_migrate_once(url: str) -> None:
    databases = await asyncio.gather(*(Database.open(url) for _ in range(4)))
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

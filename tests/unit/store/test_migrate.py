"""A database is brought to the newest schema, once; a newer one is refused."""

from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from terascope.core.errors import ConfigError
from terascope.store.database import Database, sqlite_url
from terascope.store.migrate import HEAD, current


async def test_the_newest_schema_is_reached_and_kept(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "x.db")
    for _ in range(2):
        database = await Database.open(url)
        assert current(database._writers) == HEAD
        await database.aclose()


async def test_a_database_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "x.db")
    database = await Database.open(url)
    await database.writer.submit(lambda connection, _: _set_revision(connection), None)
    await database.aclose()
    with pytest.raises(ConfigError, match="newer Terascope"):
        await Database.open(url)


def _set_revision(connection: Connection) -> None:
    connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

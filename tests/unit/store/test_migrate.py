"""A database is brought to the newest schema, once; a newer one is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config as AlembicConfig
from sqlalchemy import Connection, create_engine, text

from terascope.core.errors import ConfigError
from terascope.store import migrate
from terascope.store.database import Database, sqlite_url
from terascope.store.migrate import HEAD, current
from terascope.store.runs import RunStore


async def test_the_newest_schema_is_reached_and_kept(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "x.db")
    for _ in range(2):
        database = await Database.open(url)
        assert current(database._writers) == HEAD
        await database.aclose()


async def test_records_of_an_older_program_stay(tmp_path: Path) -> None:
    """A record of the first schema, which knew nothing of cached tokens."""
    path = tmp_path / "x.db"
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        _upgrade(connection, "0001")
        connection.execute(text(_OLD_RECORD))
    engine.dispose()
    database = await Database.open(sqlite_url(path))
    assert current(database._writers) == HEAD
    old = await RunStore(database).get("req_1")
    assert old is not None
    assert (old.key_id, old.prompt_tokens, old.cached_tokens) == ("key_1", 7, 0)
    await RunStore(database).add(replace(old, id="req_2", cached_tokens=5))
    new = await RunStore(database).get("req_2")
    assert new is not None
    assert new.cached_tokens == 5
    await database.aclose()


_OLD_RECORD = """
INSERT INTO runs (
    id, started, key_id, endpoint, model, digest, replica, engine, parameters, stream, outcome, status, error,
    prompt_tokens, completion_tokens, queued_s, first_s, total_s, attempts
) VALUES ('req_1', 1, 'key_1', 'completions', '', '', '', '', '{}', 0, 'completed', 200, '', 7, 2, 0, 0, 0, 1)
"""


def _upgrade(connection: Connection, revision: str) -> None:
    config = AlembicConfig()
    config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


async def test_a_database_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "x.db")
    database = await Database.open(url)
    await database.writer.submit(lambda connection, _: _set_revision(connection), None)
    await database.aclose()
    with pytest.raises(ConfigError, match="newer Terascope"):
        await Database.open(url)


def _set_revision(connection: Connection) -> None:
    connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

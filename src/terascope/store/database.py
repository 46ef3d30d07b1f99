"""The connection: one URL, read asynchronously, written in group commits by one thread."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from terascope.store.migrate import migrate
from terascope.store.writer import GroupWriter

Durability = Literal["process", "full"]


class Database:
    """The store's two ways in: `read()` for queries, `writer` for every change.

    Changes go through one thread that commits all that waits together; a change that returned is durable: it
    survives `kill -9` of any process (`durability="full"`: power loss too).
    """

    def __init__(self, readers: AsyncEngine, writers: Engine) -> None:
        self._readers = readers
        self._writers = writers
        self.writer = GroupWriter(writers)

    @classmethod
    async def open(cls, url: str, *, durability: Durability = "process") -> "Database":
        """Connect, bring the schema to the newest migration, start the writer.

        `url` is an SQLAlchemy URL of SQLite or PostgreSQL without a driver. Raises what the driver raises when
        the database cannot be reached.
        """
        target = make_url(url)
        writers = _tuned(create_engine(target.set(drivername=_sync_driver(target)), pool_size=1), durability)
        readers = create_async_engine(target.set(drivername=_async_driver(target)))
        _tuned(readers.sync_engine, durability)
        migrate(writers)
        database = cls(readers, writers)
        database.writer.start()
        return database

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection for queries; what it reads is committed."""
        async with self._readers.connect() as connection:
            yield connection

    async def aclose(self) -> None:
        """Write what waits, then close. Idempotent."""
        await self.writer.aclose()
        await self._readers.dispose()
        self._writers.dispose()


def sqlite_url(path: Path) -> str:
    """The URL of the SQLite file at `path`."""
    return URL.create("sqlite", database=str(path)).render_as_string()


def _sync_driver(url: URL) -> str:
    return {"sqlite": "sqlite+pysqlite", "postgresql": "postgresql+psycopg"}[url.get_backend_name()]


def _async_driver(url: URL) -> str:
    return {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg"}[url.get_backend_name()]


def _tuned(engine: Engine, durability: Durability) -> Engine:
    if engine.dialect.name == "sqlite":
        synchronous = "FULL" if durability == "full" else "NORMAL"

        @event.listens_for(engine, "connect")
        def _pragmas(connection: Any, _record: object) -> None:
            cursor = connection.cursor()
            for pragma in ("journal_mode=WAL", f"synchronous={synchronous}", "foreign_keys=ON", "busy_timeout=10000"):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

    return engine


__all__ = ["Connection", "Database", "sqlite_url"]

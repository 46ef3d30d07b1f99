"""The connection: one URL, read asynchronously, written in group commits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from terascope.store.migrate import migrate
from terascope.store.writer import LoopWriter, ThreadWriter, Writer

Durability = Literal["process", "full"]
_CHECKPOINT_EVERY = 500  # commits: a few megabytes of log


class Database:
    """The store's two ways in: `read()` for queries, `writer` for every change.

    A change that returned is durable: it survives `kill -9` of any process (`durability="full"`: power loss too).
    """

    def __init__(self, readers: AsyncEngine, writers: Engine, *, in_loop: bool) -> None:
        self._readers = readers
        self._writers = writers
        self._commits = 0
        self._checkpoint: asyncio.Future[None] | None = None
        self.writer: Writer = LoopWriter(writers, self._committed) if in_loop else ThreadWriter(writers)

    @classmethod
    async def open(cls, url: str, *, durability: Durability = "process") -> "Database":
        """Connect, bring the schema to the newest migration, start the writer.

        `url` is an SQLAlchemy URL of SQLite or PostgreSQL without a driver. Raises what the driver raises when
        the database cannot be reached.
        """
        target = make_url(url)
        in_loop = target.get_backend_name() == "sqlite" and durability == "process"
        writers = create_engine(target.set(drivername=_sync_driver(target)), hide_parameters=True)
        _tuned(writers, durability, checkpoints=not in_loop)
        readers = create_async_engine(target.set(drivername=_async_driver(target)), hide_parameters=True)
        _tuned(readers.sync_engine, durability)
        migrate(writers)
        return cls(readers, writers, in_loop=in_loop)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection for queries; what it reads is committed."""
        async with self._readers.connect() as connection:
            yield connection

    async def aclose(self) -> None:
        """Write what waits, then close. Idempotent."""
        await self.writer.aclose()
        if self._checkpoint is not None:
            await self._checkpoint
        await self._readers.dispose()
        self._writers.dispose()

    def _committed(self) -> None:
        """Now and then move SQLite's log into the database, in a thread: only this waits for the disk."""
        self._commits += 1
        if self._commits >= _CHECKPOINT_EVERY and (self._checkpoint is None or self._checkpoint.done()):
            self._commits = 0
            self._checkpoint = asyncio.ensure_future(asyncio.to_thread(self._run_checkpoint))

    def _run_checkpoint(self) -> None:
        with self._writers.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)")


def sqlite_url(path: Path) -> str:
    """The URL of the SQLite file at `path`."""
    return URL.create("sqlite", database=str(path)).render_as_string()


def _sync_driver(url: URL) -> str:
    return {"sqlite": "sqlite+pysqlite", "postgresql": "postgresql+psycopg"}[url.get_backend_name()]


def _async_driver(url: URL) -> str:
    return {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg"}[url.get_backend_name()]


def _tuned(engine: Engine, durability: Durability, *, checkpoints: bool = True) -> None:
    if engine.dialect.name == "sqlite":
        pragmas = ["journal_mode=WAL", "foreign_keys=ON", "busy_timeout=10000"]
        pragmas.append("synchronous=FULL" if durability == "full" else "synchronous=NORMAL")
        if not checkpoints:
            pragmas.append("wal_autocheckpoint=0")

        @event.listens_for(engine, "connect")
        def _set_pragmas(connection: Any, _record: object) -> None:
            cursor = connection.cursor()
            for pragma in pragmas:
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

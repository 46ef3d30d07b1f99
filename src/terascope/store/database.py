"""The connection: one URL, read asynchronously, written in group commits."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from terascope.core.errors import ConfigError
from terascope.store.migrate import migrate
from terascope.store.writer import LoopWriter, ServerWriter, ThreadWriter, Writer

Durability = Literal["process", "full"]
APPLICATION = "terascope"  # what PostgreSQL knows a gateway's connections by
_CHECKPOINT_EVERY = 500  # commits: a few megabytes of log


class Database:
    """The store's two ways in: `read()` for queries, `writer` for every change.

    A change that returned is durable: it survives `kill -9` of any process (`durability="full"`: power loss too).
    """

    def __init__(self, readers: AsyncEngine, writer: Writer, close: Callable[[], Awaitable[None]]) -> None:
        self._readers = readers
        self._close = close
        self.writer: Writer = writer

    @classmethod
    async def open(cls, url: str, *, durability: Durability = "process") -> "Database":
        """Connect, bring the schema to the newest migration, start the writer.

        `url` is an SQLAlchemy URL of SQLite or PostgreSQL without a driver. Raises `ConfigError` when it is neither,
        when the server cannot be reached, or when the database is of a newer Terascope.
        """
        target = checked(url)
        try:
            if target.get_backend_name() == "sqlite":
                return await cls._open_sqlite(target, durability)
            return await cls._open_postgresql(target)
        except (OSError, DBAPIError) as error:
            raise unusable(target, error) from error

    @classmethod
    async def _open_sqlite(cls, url: URL, durability: Durability) -> "Database":
        writers = create_engine(url.set(drivername="sqlite+pysqlite"), hide_parameters=True)
        in_loop = durability == "process"
        _tuned(writers, durability, checkpoints=not in_loop)
        readers = create_async_engine(url.set(drivername="sqlite+aiosqlite"), hide_parameters=True)
        _tuned(readers.sync_engine, durability)
        with writers.begin() as connection:
            migrate(connection)
        checkpoints = _Checkpoints(writers)
        writer: Writer = LoopWriter(writers, checkpoints.committed) if in_loop else ThreadWriter(writers)

        async def close() -> None:
            await checkpoints.ended()
            await readers.dispose()
            writers.dispose()

        return cls(readers, writer, close)

    @classmethod
    async def _open_postgresql(cls, url: URL) -> "Database":
        """One pool for both ways: the server does the waiting, so that no thread is needed.

        Its default settings are durable enough for either `durability`.
        """
        engine = create_async_engine(
            url.set(drivername="postgresql+asyncpg"), hide_parameters=True, pool_pre_ping=True,
            connect_args={"server_settings": {"application_name": APPLICATION}},
        )  # fmt: skip
        try:
            async with engine.begin() as connection:
                await connection.run_sync(migrate)
        except BaseException:
            await engine.dispose()
            raise
        return cls(engine, ServerWriter(engine), engine.dispose)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection for queries; what it reads is committed."""
        async with self._readers.connect() as connection:
            yield connection

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncConnection]:
        """A connection whose queries all see one moment, whatever is written meanwhile; nobody waits for it.

        Meanwhile SQLite's log grows and PostgreSQL keeps what is deleted.
        """
        async with self._readers.connect() as connection:
            if connection.dialect.name == "sqlite":
                await connection.exec_driver_sql("BEGIN")  # the driver begins none for a query
            else:
                await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            yield connection

    async def aclose(self) -> None:
        """Write what waits, then close. Idempotent."""
        await self.writer.aclose()
        await self._close()


class _Checkpoints:
    """Now and then moves SQLite's log into the database, in a thread: only this waits for the disk."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._commits = 0
        self._running: asyncio.Future[None] | None = None

    def committed(self) -> None:
        """There is one more commit in the log."""
        self._commits += 1
        if self._commits >= _CHECKPOINT_EVERY and (self._running is None or self._running.done()):
            self._commits = 0
            self._running = asyncio.ensure_future(asyncio.to_thread(self._run))

    async def ended(self) -> None:
        """Return when none runs."""
        if self._running is not None:
            await self._running

    def _run(self) -> None:
        with self._engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)")


def sqlite_url(path: Path) -> str:
    """The URL of the SQLite file at `path`."""
    return URL.create("sqlite", database=str(path)).render_as_string()


def checked(url: str) -> URL:
    """Read the URL of a database. Raises `ConfigError` unless it is of SQLite or PostgreSQL."""
    try:
        target = make_url(url)
    except ArgumentError:
        raise ConfigError("`database.url` is no URL; write one like postgresql://user@host/terascope") from None
    if target.get_backend_name() not in ("sqlite", "postgresql"):
        raise ConfigError(f"`database.url` is of {target.get_backend_name()}; Terascope takes sqlite and postgresql")
    return target


def unusable(url: URL, error: OSError | DBAPIError) -> ConfigError:
    """The error of a database that cannot be used, without its password."""
    reason = error.orig if isinstance(error, DBAPIError) else error
    return ConfigError(f"the database {url.render_as_string()} cannot be used: {reason}")


def _tuned(engine: Engine, durability: Durability, *, checkpoints: bool = True) -> None:
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

"""Databases as a first start leaves them, copied from one that was migrated before: a copy takes no time."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import create_engine

from terascope.store.database import sqlite_url
from terascope.store.migrate import migrate


def new_sqlite(path: Path) -> str:
    """The URL of the SQLite file at `path`; unless it is there, it is made with every table in it, its directory too.

    `Database.open` finds nothing to do in it. The rows of a new database have the same times in all of one process.
    """
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_bytes(_migrated())
    return sqlite_url(path)


@cache
def _migrated() -> bytes:
    """The content of a database that was brought to the newest schema."""
    with TemporaryDirectory(prefix="terascope-") as directory:
        path = Path(directory) / "new.db"
        engine = create_engine(sqlite_url(path), hide_parameters=True)
        with engine.begin() as connection:
            migrate(connection)
        engine.dispose()
        return path.read_bytes()

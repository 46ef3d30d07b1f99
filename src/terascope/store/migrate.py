"""Alembic, run at start; when the database is already at the newest revision nothing is imported."""

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from terascope.core.errors import ConfigError

HEAD = "0019"
_LOCK = 0x7E2A5C09E  # any number that no other program takes for its lock
_SCRIPTS = Path(__file__).parent / "migrations"


def migrate(connection: Connection, target: str = HEAD) -> None:
    """Bring the schema to `target`, in the transaction that `connection` is in.

    Raises `ConfigError` when the database is newer than this program.
    """
    if current(connection) == target:
        return
    if connection.dialect.name == "postgresql":  # of several gateways that start together one migrates, the others wait
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    revision = current(connection)
    if revision and not known(revision):
        raise ConfigError(f"the database is of a newer Terascope (schema {revision}, this is {HEAD}); install that one")
    from alembic import command  # imported here: it costs a quarter of a second that most starts do not need
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS))
    config.attributes["connection"] = connection
    command.upgrade(config, target)


def known(revision: str) -> bool:
    """Whether this program can bring a database of that revision to its own."""
    return revision in {path.name.partition("_")[0] for path in (_SCRIPTS / "versions").glob("[0-9]*_*.py")}


def current(connection: Connection) -> str:
    """Return the database's revision, empty for an empty database."""
    if not inspect(connection).has_table("alembic_version"):
        return ""
    return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar() or "")

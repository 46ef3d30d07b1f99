"""Alembic, run at start; when the database is already at the newest revision nothing is imported."""

from pathlib import Path

from sqlalchemy import Engine, inspect, text

from terascope.core.errors import ConfigError

HEAD = "0002"
_SCRIPTS = Path(__file__).parent / "migrations"


def migrate(engine: Engine) -> None:
    """Bring the schema to `HEAD`. Raises `ConfigError` when the database is newer than this program."""
    revision = current(engine)
    if revision == HEAD:
        return
    if revision and not any((_SCRIPTS / "versions").glob(f"{revision}_*.py")):
        raise ConfigError(f"the database is of a newer Terascope (schema {revision}, this is {HEAD}); install that one")
    from alembic import command  # imported here: it costs a quarter of a second that most starts do not need
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def current(engine: Engine) -> str:
    """Return the database's revision, empty for an empty database."""
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return ""
        return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar() or "")

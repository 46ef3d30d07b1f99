"""Alembic, run at start; when the database is already at the newest revision nothing is imported."""

from pathlib import Path

from sqlalchemy import Engine, inspect, text

HEAD = "0001"
_SCRIPTS = Path(__file__).parent / "migrations"


def migrate(engine: Engine) -> None:
    """Bring the schema to `HEAD`. A database newer than this program is refused by Alembic."""
    if current(engine) == HEAD:
        return
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

"""`terascope backup`: the whole state of a gateway in one file, taken while it runs."""

import asyncio
import os
import pwd
from pathlib import Path
from typing import Annotated

import typer

from terascope._version import __version__
from terascope.access.access import LOCAL_KEY_ID, LOCAL_USER
from terascope.cli import settings
from terascope.cli.connection import DataDir, local_data_dir
from terascope.cli.show import Json, print_json, size
from terascope.core import environment
from terascope.core.audit import Actor, acting_as
from terascope.core.clock import SystemClock
from terascope.core.errors import ConfigError
from terascope.store.archive import new_archive
from terascope.store.audit import note
from terascope.store.backup import dump, schema_of
from terascope.store.database import Database
from terascope.store.files import FileStore
from terascope.store.migrate import HEAD

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="The new file; it gets mode 0600.")],
    config: Annotated[
        Path | None, typer.Option(help="The gateway's terascope.yaml.", show_default="TERASCOPE_CONFIG")
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Write a gateway's whole state, as it is at one moment, into FILE; it may run meanwhile.

    In it are keys (as hashes), projects, allocations and their ledger, run records, the catalogue and the audit
    log, and what is known of files and vector stores; not their content, not weights, not logs, not
    terascope.yaml. `terascope restore` makes a gateway of it.
    """
    told = settings.load(config or environment.config_file())
    where = local_data_dir(data_dir)
    with acting_as(operator_here()):
        rows, (files, content) = asyncio.run(_backup(settings.database_url(told, where), file.absolute()))
    length = file.stat().st_size
    if as_json:
        left = {"files": files, "content_bytes": content}
        print_json({"file": str(file.absolute()), "rows": rows, "bytes": length, "left_out": left})
        return
    print(f"{rows:,} rows are in {file} ({size(length)})")
    if files:
        store = told.files.url or where / "files"
        print(f"not in it: the content of {files:,} files ({size(content)}); copy {store} after this")


def operator_here() -> Actor:
    """Who works on the gateway's own machine with its files, for the audit log."""
    try:
        login = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        login = str(os.getuid())
    return Actor(LOCAL_USER, LOCAL_KEY_ID, f"this machine, login {login}")


async def _backup(url: str, file: Path) -> tuple[int, tuple[int, int]]:
    _check(await schema_of(url))
    now = SystemClock().now()
    with new_archive(file, version=__version__, schema=HEAD, time=now) as archive:
        database = await Database.open(url)
        try:
            await note(database, "backup", str(file)[:400])  # first, so that it is in the backup too
            return await dump(database, archive), await FileStore(database).total()
        finally:
            await database.aclose()


def _check(schema: str) -> None:
    if not schema:
        raise ConfigError("no gateway has used this database; name the gateway's own --config or --data-dir")
    if schema != HEAD:
        raise ConfigError(
            f"the database has schema {schema}, this Terascope {HEAD}: back it up with the version that runs on it"
        )

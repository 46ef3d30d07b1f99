"""`terascope restore`: a gateway's state from a backup, or a look at whether it can be had."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from terascope.cli import settings
from terascope.cli.backup import operator_here
from terascope.cli.connection import DataDir, local_data_dir
from terascope.cli.files import make_private
from terascope.cli.show import Json, details, print_json, when
from terascope.core import environment
from terascope.core.audit import acting_as
from terascope.fleet.lock import DirectoryLock
from terascope.store.archive import Archive, Manifest, opened_archive
from terascope.store.backup import check_schema, load

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="What `terascope backup` wrote.")],
    check: Annotated[bool, typer.Option("--check", help="Only look whether FILE is whole; change nothing.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Lose what is in the database.")] = False,
    config: Annotated[
        Path | None, typer.Option(help="The gateway's terascope.yaml.", show_default="TERASCOPE_CONFIG")
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Make the state of a gateway what FILE says, all of it or nothing; it must not run.

    The database is the configuration's, SQLite or PostgreSQL, whichever FILE is from. One that a gateway has used is
    left alone without --replace.
    """
    with opened_archive(file) as archive:
        archive.check()
        check_schema(archive)
        if not check:
            _restore(archive, config or environment.config_file(), local_data_dir(data_dir), replace=replace)
        _tell(archive.manifest, as_json=as_json, done="whole" if check else "restored")


def _restore(archive: Archive, config_file: Path | None, data_dir: Path, *, replace: bool) -> None:
    url = settings.database_url(settings.load(config_file), data_dir)
    make_private(data_dir)
    with _locked(data_dir), acting_as(operator_here()):
        asyncio.run(load(url, archive, replace=replace))


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    lock = DirectoryLock(data_dir)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _tell(manifest: Manifest, *, as_json: bool, done: str) -> None:
    rows = sum(part.lines - 1 for part in manifest.parts)  # the first line of each has the names of its columns
    about = {
        "result": done,
        "taken": manifest.time,
        "version": manifest.version,
        "schema": manifest.schema,
        "rows": rows,
    }
    print_json(about) if as_json else details((about | {"taken": when(manifest.time), "rows": f"{rows:,}"}).items())

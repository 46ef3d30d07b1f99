"""`terascope files`: uploads, and results that were kept."""

from pathlib import Path
from typing import Annotated

import typer

from terascope.cli.connection import with_client
from terascope.cli.show import Json, details, print_json, size, table, when
from terascope.client import Client
from terascope.core.errors import Conflict
from terascope.protocol.files import UPLOADED, FileObject

app = typer.Typer(rich_markup_mode=None, add_completion=False)
Id = Annotated[str, typer.Argument(metavar="FILE_ID", help="As `terascope files list` shows it.")]
Project = Annotated[str, typer.Option(help="Whose files.", show_default="the key's own")]
_DAY_S = 86_400


@app.callback()
def files() -> None:
    """Files: uploads, and results that were kept; they belong to projects."""


@app.command()
@with_client
def add(
    client: Client,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file of this machine.")],
    purpose: Annotated[str, typer.Option(help=f"What for: {', '.join(UPLOADED)}.")] = "user_data",
    days: Annotated[int, typer.Option(help="Days that it is kept.", min=0, max=30, show_default="for ever")] = 0,
    project: Project = "",
    as_json: Json = False,
) -> None:
    """Upload a file; it is read while it is sent."""
    one = client.files.add(path, purpose, lasts_s=days * _DAY_S or None, project=project)
    print_json(one) if as_json else print(f"{one.id}  {one.filename} ({size(one.bytes)})")


@app.command("list")
@with_client
def list_files(
    client: Client,
    purpose: Annotated[str, typer.Option(help="Only those of this purpose.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 50,
    after: Annotated[str, typer.Option(metavar="FILE_ID", help="Only those older than this one.")] = "",
    project: Project = "",
    as_json: Json = False,
) -> None:
    """List the files of a project, newest first."""
    found = client.files.list(limit=limit, purpose=purpose, after=after, project=project).data
    if as_json:
        print_json(found)
        return
    rows = (
        (one.id, one.filename, one.purpose, size(one.bytes), when(one.created_at), when(one.expires_at))
        for one in found
    )
    table(("id", "name", "purpose", "size", "made", "until"), rows, empty="there is no such file")


@app.command()
@with_client
def show(client: Client, file_id: Id, as_json: Json = False) -> None:
    """Show one file."""
    one = client.files.get(file_id)
    print_json(one) if as_json else details(_shown(one).items())


@app.command()
@with_client
def get(
    client: Client,
    file_id: Id,
    path: Annotated[
        Path | None, typer.Argument(metavar="PATH", help="Where to.", show_default="its own name, here")
    ] = None,
) -> None:
    """Fetch the content of a file; PATH is there only when it is whole."""
    target = path or Path(Path(client.files.get(file_id).filename).name)
    if target.exists():
        raise Conflict(f"{target} is there already; remove it or name another PATH")
    client.save_file(file_id, target)
    print(f"{target} ({size(target.stat().st_size)})")


@app.command()
@with_client
def remove(client: Client, file_id: Id) -> None:
    """Delete a file and its content."""
    client.files.remove(file_id)
    print(f"{file_id} is gone")


def _shown(one: FileObject) -> dict[str, object]:
    times = {"created_at": when(one.created_at), "expires_at": when(one.expires_at)}
    return one.model_dump(exclude={"object", "status"}) | times | {"bytes": f"{one.bytes:,}"}

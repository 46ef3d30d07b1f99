"""`terascope vector-stores`: files of projects, found by meaning."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from terascope.cli.connection import with_client
from terascope.cli.show import Json, details, print_json, size, table, when
from terascope.client import Client
from terascope.core.errors import BadRequest
from terascope.protocol.vector_stores import MOST_FILES, Result, Store, StoreFile

app = typer.Typer(rich_markup_mode=None, add_completion=False)
StoreId = Annotated[str, typer.Argument(metavar="STORE", help="As `terascope vector-stores list` shows it.")]
Project = Annotated[str, typer.Option(help="Whose stores.", show_default="the key's own")]
_LOOK_EVERY_S = 0.2
_PAGE = 100


@app.callback()
def vector_stores() -> None:
    """Vector stores: files of projects, found by meaning, for searches and chats."""


@app.command()
@with_client
def create(
    client: Client,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is to be called.")],
    model: Annotated[str, typer.Option(help="What makes its vectors, for good.", show_default="the gateway's")] = "",
    days: Annotated[int, typer.Option(help="Days after its last use.", min=0, max=365, show_default="for ever")] = 0,
    project: Project = "",
    as_json: Json = False,
) -> None:
    """Make a vector store with nothing in it."""
    one = client.vector_stores.create(name, model=model, days=days or None, project=project)
    print_json(one) if as_json else print(f"{one.id}  {one.name} ({one.embedding_model})")


@app.command()
@with_client
def add(
    client: Client,
    store: StoreId,
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Files of this machine, or ids of uploads.")],
    wait: Annotated[bool, typer.Option(help="Whether to wait until they are there.")] = True,
    as_json: Json = False,
) -> None:
    """Put files into a store; those of this machine are uploaded. What is there already is read again."""
    project = client.vector_stores.get(store).project
    ids = list(dict.fromkeys(_file_id(client, one, project) for one in files))
    batches = [
        client.vector_stores.add_batch(store, ids[start : start + MOST_FILES]).id
        for start in range(0, len(ids), MOST_FILES)
    ]
    for batch in batches if wait else ():
        while client.vector_stores.batch(store, batch).status == "in_progress":
            time.sleep(_LOOK_EVERY_S)
    found = [client.vector_stores.file(store, one) for one in ids]
    print_json(found) if as_json else _show_files(found)
    if failed := sum(one.status == "failed" for one in found):
        raise BadRequest(f"{failed} of {len(found)} files cannot be used")


@app.command("list")
@with_client
def list_stores(
    client: Client,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many.")] = 50,
    after: Annotated[str, typer.Option(metavar="STORE", help="Only those older than this one.")] = "",
    project: Project = "",
    as_json: Json = False,
) -> None:
    """List the vector stores of a project, newest first."""
    found = client.vector_stores.list(limit=limit, after=after, project=project).data
    if as_json:
        print_json(found)
        return
    rows = (
        (one.id, one.name, one.status, str(one.file_counts.total), size(one.usage_bytes), str(one.version),
         one.embedding_model, when(one.last_active_at), when(one.expires_at))
        for one in found
    )  # fmt: skip
    columns = ("id", "name", "status", "files", "size", "version", "model", "used", "until")
    table(columns, rows, empty="there is no vector store")


@app.command()
@with_client
def show(client: Client, store: StoreId, as_json: Json = False) -> None:
    """Show one store and the files in it."""
    one = client.vector_stores.get(store)
    found = _all_files(client, store)
    if as_json:
        print_json({"store": one.model_dump(mode="json"), "files": [file.model_dump(mode="json") for file in found]})
        return
    details(_shown(one))
    print()
    _show_files(found)


@app.command()
@with_client
def search(
    client: Client,
    store: StoreId,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What is looked for.")],
    results: Annotated[int, typer.Option(min=1, max=50, help="How many passages.")] = 10,
    version: Annotated[int, typer.Option(min=-1, help="The version to search.", show_default="the newest")] = -1,
    filters: Annotated[str, typer.Option(help="A filter over attributes, as JSON.")] = "",
    as_json: Json = False,
) -> None:
    """Find the passages that are nearest to a query."""
    found = client.vector_stores.search(
        store, query, results=results, version=None if version < 0 else version, filters=_json(filters)
    )
    if as_json:
        print_json(found)
        return
    print(f"version {found.version}")
    for one in found.data:
        _show_passage(one)


@app.command()
@with_client
def remove(
    client: Client,
    store: StoreId,
    file_id: Annotated[
        str, typer.Argument(metavar="FILE_ID", help="A file to take out.", show_default="the whole store")
    ] = "",
) -> None:
    """Delete a store, or take one file out of it. Files stay in `terascope files`."""
    if file_id:
        client.vector_stores.take_out(store, file_id)
        print(f"{file_id} is not in {store} any more")
    else:
        client.vector_stores.remove(store)
        print(f"{store} is gone")


def _file_id(client: Client, file: str, project: str) -> str:
    """The id of a file that is uploaded, now if it is one of this machine."""
    if file.startswith("file_") and not Path(file).exists():
        return file
    return client.files.add(file, project=project).id


def _all_files(client: Client, store: str) -> list[StoreFile]:
    found: list[StoreFile] = []
    more = True
    while more:
        page = client.vector_stores.files(store, limit=_PAGE, after=found[-1].id if found else "")
        found += page.data
        more = page.has_more
    return found


def _show_files(found: Sequence[StoreFile]) -> None:
    rows = (
        (one.id, one.filename, one.status, str(one.passages), size(one.usage_bytes),
         one.last_error.message if one.last_error else "")
        for one in found
    )  # fmt: skip
    table(("file", "name", "status", "passages", "size", "error"), rows, empty="there is no file in it")


def _show_passage(one: Result) -> None:
    place = f"characters {one.passage.start} to {one.passage.end}"
    print()
    details([(f"{one.score:.3f}", f"{one.filename} ({one.file_id}), {place}")])
    for part in one.content:
        details([("", part.text)])


def _shown(one: Store) -> list[tuple[str, object]]:
    told = one.model_dump(exclude={"object", "file_counts", "expires_after", "metadata", "created_at"})
    told |= {"last_active_at": when(one.last_active_at), "expires_at": when(one.expires_at)}
    told |= {"created_at": when(one.created_at), "usage_bytes": f"{one.usage_bytes:,}"}
    counts = {name: count for name, count in one.file_counts.model_dump().items() if count}
    return [*told.items(), ("files", ", ".join(f"{count} {name}" for name, count in counts.items()))]


def _json(text: str) -> dict[str, object] | None:
    if not text:
        return None
    try:
        found = json.loads(text)
    except ValueError as error:
        raise BadRequest(f"--filters is no JSON: {error}", param="filters") from None
    if not isinstance(found, dict):
        raise BadRequest("--filters must be a JSON object", param="filters")
    return found

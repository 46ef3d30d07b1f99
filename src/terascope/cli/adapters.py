"""`terascope adapters`: LoRA adapters of the models that are served."""

from pathlib import Path
from typing import Annotated

import typer

from terascope.cli.connection import with_client
from terascope.cli.models import absolute
from terascope.cli.show import Json, details, print_json, size, table, when
from terascope.client import Client
from terascope.protocol.admin import ModelView

app = typer.Typer(rich_markup_mode=None, add_completion=False)
Adapter = Annotated[str, typer.Argument(metavar="BASE:ADAPTER[@VERSION]")]
_SOURCES = ("path:", "hf:", "pypi:")


@app.callback()
def adapters() -> None:
    """Adapters: what is added to a model for the requests that ask for it."""


@app.command()
@with_client
def add(
    client: Client,
    source: Annotated[
        str,
        typer.Argument(metavar="PATH", help="What PEFT's save_pretrained wrote; or hf: or pypi:, as for models."),
    ],
    base: Annotated[str, typer.Option(help="The model it adds to: NAME, for its newest version, or NAME@VERSION.")],
    name: Annotated[str, typer.Option(help="Its name; else that of its directory.")] = "",
    version: Annotated[str, typer.Option(help="Version name; else the first 12 digits of the digest.")] = "",
    project: Annotated[
        str, typer.Option(help="The project that alone may use it; else whoever may use the model.")
    ] = "",
    licence: Annotated[str, typer.Option(help="Its licence, where its README.md does not say it.")] = "",
    as_json: Json = False,
) -> None:
    """Read a LoRA adapter and pin it as BASE:NAME@VERSION.

    It can be asked for at once, as `model: "BASE:NAME"`. Its files stay where they are; they must not change.
    """
    place = source if source.startswith(_SOURCES) else f"path:{source}"
    own = name or Path(place.partition(":")[2].partition("@")[0]).name
    added = client.adapters.add(own, base, absolute(place), version=version, project=project, licence=licence)
    _show(added, as_json)


@app.command("list")
@with_client
def list_adapters(client: Client, as_json: Json = False) -> None:
    """List the adapters of the catalogue."""
    found = client.adapters.list().data
    if as_json:
        print_json(found)
        return
    rows = ((f"{one.name}@{one.version}", one.state, one.parent, one.owner, _size(one), one.licence) for one in found)
    columns = ("adapter", "state", "adds to", "project", "size", "licence")
    table(columns, rows, empty="there are no adapters; `terascope adapters add PATH --base MODEL` adds one")


@app.command()
@with_client
def show(client: Client, adapter: Adapter, as_json: Json = False) -> None:
    """Show one adapter."""
    _show(client.adapters.get(adapter), as_json)


@app.command()
@with_client
def remove(client: Client, adapter: Adapter) -> None:
    """Remove one version from the catalogue; its files stay."""
    if "@" not in adapter.partition(":")[2]:
        raise typer.BadParameter(f"{adapter!r} names no version; `terascope adapters list` shows them")
    client.adapters.remove(adapter)
    print(f"{adapter} is removed from the catalogue; its files stay")


def _show(one: ModelView, as_json: bool) -> None:
    if as_json:
        print_json(one)
        return
    names = ("name", "version", "digest", "parent", "owner", "licence", "source", "state")
    shown = {name: getattr(one, name) for name in names} | {
        "parameters": f"{one.parameters:,}",
        "files": f"{len(one.files)}, {_size(one)}",
        "added": when(one.created),
    }
    details(shown.items())


def _size(one: ModelView) -> str:
    return size(sum(file.size for file in one.files))

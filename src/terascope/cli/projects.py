"""`terascope projects`: who may use which models, and how."""

from typing import Annotated

import typer

from terascope.cli.connection import with_client
from terascope.cli.show import Json, details, print_json, table, when
from terascope.client import Client
from terascope.core.models import Mode
from terascope.core.projects import MOST_SHARES, Qos
from terascope.protocol.projects import ProjectView

app = typer.Typer(rich_markup_mode=None, add_completion=False)
Name = Annotated[str, typer.Argument(metavar="PROJECT", help="Its name.")]
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="A name, NAME@VERSION, or '*' for every model.")]


@app.callback()
def projects() -> None:
    """Projects: who may use which models, and how."""


@app.command("list")
@with_client
def list_projects(client: Client, as_json: Json = False) -> None:
    """List the projects: all of them for an operator, else those one is a member of."""
    found = client.projects.list().data
    if as_json:
        print_json(found)
        return
    rows = ((one.name, one.title, one.role or "", str(one.shares), _state(one), _models(one)) for one in found)
    table(
        ("project", "title", "your role", "shares", "state", "models"),
        rows,
        empty="there is no project that you may see",
    )


@app.command()
@with_client
def show(client: Client, name: Name, as_json: Json = False) -> None:
    """Show one project and what it may do."""
    one = client.projects.get(name)
    print_json(one) if as_json else _show(one)


@app.command()
@with_client
def create(
    client: Client,
    name: Name,
    title: Annotated[str, typer.Option(help="What it is about.")] = "",
    pi: Annotated[str, typer.Option(metavar="USER", help="Who leads it.")] = "",
    as_json: Json = False,
) -> None:
    """Make a project. It may do nothing until `terascope projects allow` says what."""
    one = client.projects.create(name, title=title, pi=pi)
    print_json(one) if as_json else print(
        f"{one.name} is there; `terascope projects allow {one.name} '*'` opens models"
    )


@app.command()
@with_client
def allow(
    client: Client,
    name: Name,
    model: ModelName,
    mode: Annotated[list[Mode] | None, typer.Option(help="May be repeated.", show_default="query, embed")] = None,
    qos: Annotated[list[Qos] | None, typer.Option(help="May be repeated.", show_default="interactive, batch")] = None,
    as_json: Json = False,
) -> None:
    """Say how a project may use a model; what was said of that model before is replaced."""
    one = client.projects.allow(name, model, mode or (), qos or ())
    print_json(one) if as_json else print(f"{name} may use {one.model}: {', '.join(one.modes)}; {', '.join(one.qos)}")


@app.command()
@with_client
def deny(client: Client, name: Name, model: ModelName) -> None:
    """Take back what was allowed for a model."""
    client.projects.deny(name, model)
    print(f"{name} has no policy for {model} any more")


@app.command()
@with_client
def close(client: Client, name: Name) -> None:
    """Close a project: nobody may use it; what it has is kept."""
    client.projects.change(name, closed=True)
    print(f"{name} is closed")


@app.command()
@with_client
def shares(
    client: Client, name: Name, count: Annotated[int, typer.Argument(metavar="SHARES", min=1, max=MOST_SHARES)]
) -> None:
    """Say how large a project's part is of what models can do, beside the shares of the others that wait."""
    client.projects.change(name, shares=count)
    print(f"{name} has {count} shares")


@app.command("open")
@with_client
def open_again(client: Client, name: Name) -> None:
    """Open a closed project again."""
    client.projects.change(name, closed=False)
    print(f"{name} is open")


def _show(one: ProjectView) -> None:
    shown = one.model_dump(exclude={"policies"})
    details((shown | {"created": when(one.created), "closed": when(one.closed)}).items())
    details(
        (f"may use {policy.model}", f"{', '.join(policy.modes)}; {', '.join(policy.qos)}") for policy in one.policies
    )


def _state(one: ProjectView) -> str:
    return "open" if one.closed is None else f"closed {when(one.closed)}"


def _models(one: ProjectView) -> str:
    return " ".join(policy.model for policy in one.policies)

"""`terascope allocations`: what projects were granted, and what is left of it."""

import math
import time
from typing import Annotated

import typer

from terascope.cli.connection import with_client
from terascope.cli.keys import expiry
from terascope.cli.show import Json, print_json, table, when
from terascope.client import Client
from terascope.protocol.allocations import AllocationView

app = typer.Typer(rich_markup_mode=None, add_completion=False)
Project = Annotated[str, typer.Argument(metavar="PROJECT")]
Note = Annotated[str, typer.Option(help="Why.")]
Until = Annotated[str, typer.Option(help="12h, 30d, 52w, or a local date such as 2027-01-01.", show_default="never")]


@app.callback()
def allocations() -> None:
    """Allocations: the service units of projects."""


@app.command("list")
@with_client
def list_allocations(client: Client, project: Project, as_json: Json = False) -> None:
    """List a project's allocations and what is left of each."""
    found = client.allocations.list(project).data
    print_json(found) if as_json else _table(found, f"{project} has no allocation")


@app.command()
@with_client
def grant(
    client: Client,
    project: Project,
    units: Annotated[str, typer.Argument(help="Service units, or `unlimited`.")],
    starts: Annotated[str, typer.Option(help="A local date, or a time from now such as 7d.", show_default="now")] = "",
    ends: Until = "",
    note: Note = "",
    as_json: Json = False,
) -> None:
    """Give a project service units for a time."""
    now = time.time()
    begin, end = (expiry(text, now) if text else None for text in (starts, ends))
    one = client.allocations.grant(project, _units(units), starts=begin, ends=end, note=note)
    print_json(one) if as_json else print(f"{one.id} gives {project} {_left(one)} service units")


@app.command()
@with_client
def end(
    client: Client,
    allocation: Annotated[str, typer.Argument(metavar="ID")],
    at: Annotated[str, typer.Option("--at", help="12h, 30d, a local date, or `never`.", show_default="now")] = "0h",
    as_json: Json = False,
) -> None:
    """Let an allocation end at another time."""
    one = client.allocations.set_end(allocation, None if at == "never" else expiry(at, time.time()))
    print_json(one) if as_json else print(f"{one.id} ends {when(one.ends) or 'never'}")


@app.command()
@with_client
def transfer(
    client: Client,
    source: Annotated[str, typer.Argument(help="The allocation's id.")],
    target: Annotated[str, typer.Argument(help="The other allocation's id.")],
    units: Annotated[float, typer.Argument(help="Service units.")],
    note: Note = "",
    as_json: Json = False,
) -> None:
    """Move service units from one allocation to another."""
    both = client.allocations.transfer(source, target, units, note=note).data
    print_json(both) if as_json else _table(both, "")


@app.command()
@with_client
def refund(
    client: Client,
    run: Annotated[str, typer.Argument(metavar="RUN", help="The id of the request.")],
    note: Note = "",
    as_json: Json = False,
) -> None:
    """Give back what a request was charged."""
    one = client.allocations.refund(run, note=note)
    print_json(one) if as_json else print(f"{one.service_units:,} service units of {one.run} are given back")


@app.command()
@with_client
def price(
    client: Client,
    model: Annotated[str, typer.Argument(metavar="NAME@VERSION")],
    prompt: Annotated[int | None, typer.Option(help="Service units for a million tokens of prompts.")] = None,
    output: Annotated[int | None, typer.Option(help="Service units for a million tokens of answers.")] = None,
    as_json: Json = False,
) -> None:
    """Set what a model version costs; without options the formula says it again."""
    if (prompt is None) != (output is None):
        raise typer.BadParameter("give both --prompt and --output, or neither for the formula")
    if prompt is None or output is None:
        one = client.allocations.price_by_formula(model)
    else:
        one = client.allocations.price(model, prompt, output)
    told = f"{one.prompt:,} service units for a million tokens of prompts, {one.output:,} of answers"
    print_json(one) if as_json else print(f"{one.model} costs {told}")


def _table(found: list[AllocationView], empty: str) -> None:
    rows = (
        (one.id, one.project, _left(one), f"{one.held:,}", when(one.starts), when(one.ends) or "never", one.note)
        for one in found
    )
    table(("id", "project", "left", "held", "starts", "ends", "note"), rows, empty=empty)


def _left(one: AllocationView) -> str:
    return "unlimited" if one.unlimited else f"{one.balance:,}"


def _units(text: str) -> float | None:
    if text == "unlimited":
        return None
    try:
        if math.isfinite(units := float(text)):
            return units
        raise ValueError
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no number of service units; write one, or `unlimited`") from None

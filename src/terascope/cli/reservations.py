"""`terascope reservations`: slots of a model that a project holds between two times."""

import time
from typing import Annotated

import typer

from terascope.cli.connection import with_client
from terascope.cli.keys import expiry
from terascope.cli.show import Json, print_json, table, when
from terascope.client import Client

app = typer.Typer(rich_markup_mode=None, add_completion=False)
_WHEN = "A local date, or a time from now such as 2h or 7d."


@app.callback()
def reservations() -> None:
    """Reservations: slots of a model that a project holds for a time."""


@app.command("list")
@with_client
def list_reservations(
    client: Client, project: Annotated[str, typer.Option(help="Of this project alone.")] = "", as_json: Json = False
) -> None:
    """List the reservations that are not over."""
    found = client.reservations.list(project).data
    if as_json:
        print_json(found)
        return
    rows = (
        (one.id, one.project, one.model, str(one.slots), when(one.starts), when(one.ends), one.note) for one in found
    )
    table(("id", "project", "model", "slots", "starts", "ends", "note"), rows, empty="nothing is reserved")


@app.command()
@with_client
def create(
    client: Client,
    project: Annotated[str, typer.Argument(metavar="PROJECT")],
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A name, or NAME@VERSION.")],
    slots: Annotated[int, typer.Argument(metavar="SLOTS", help="Requests that may run at once.")],
    ends: Annotated[str, typer.Option(help=_WHEN)],
    starts: Annotated[str, typer.Option(help=_WHEN, show_default="now")] = "",
    note: Annotated[str, typer.Option(help="Why.")] = "",
    as_json: Json = False,
) -> None:
    """Keep slots of a model for a project: its requests go first there, and nobody else takes them."""
    now = time.time()
    begin = expiry(starts, now) if starts else None
    one = client.reservations.create(project, model, slots, starts=begin, ends=expiry(ends, now), note=note)
    shown = f"{one.id} keeps {one.slots} slots of {one.model} for {one.project} until {when(one.ends)}"
    print_json(one) if as_json else print(shown)


@app.command()
@with_client
def cancel(client: Client, reservation: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """End a reservation at once."""
    client.reservations.cancel(reservation)
    print(f"{reservation} is cancelled")

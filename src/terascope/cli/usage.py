"""`terascope usage`: what was used, by project, user, model and day."""

from typing import Annotated

import typer

from terascope.cli.connection import with_client
from terascope.cli.show import Json, print_json, table
from terascope.client import Client
from terascope.protocol.allocations import UsageView
from terascope.protocol.spreadsheet import csv_text

app = typer.Typer(rich_markup_mode=None, add_completion=False)
_COLUMNS = ("project", "user", "model", "day", "requests", "tokens in", "out", "service units")


@app.command()
@with_client
def usage(
    client: Client,
    project: Annotated[str, typer.Option(help="Only of this project.")] = "",
    user: Annotated[str, typer.Option(help="Only of this user.")] = "",
    model: Annotated[str, typer.Option(metavar="NAME@VERSION", help="Only of this model version.")] = "",
    first: Annotated[str, typer.Option(metavar="DAY", help="From this day (UTC).", show_default="30 days ago")] = "",
    last: Annotated[str, typer.Option(metavar="DAY", help="To this day (UTC).", show_default="today")] = "",
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: Json = False,
) -> None:
    """Show what was used: everybody's for an operator, of one's project for a PI and an auditor, else one's own."""
    found = client.usage.list(project=project, user=user, model=model, first=first, last=last).data
    if as_csv:
        rows = (one.model_dump().values() for one in found)
        print(csv_text(UsageView.model_fields, rows, line_end="\n"), end="")
    elif as_json:
        print_json(found)
    else:
        table(_COLUMNS, map(_row, found), empty="nothing was used")


def _row(one: UsageView) -> tuple[str, ...]:
    numbers = (one.requests, one.prompt_tokens, one.output_tokens, one.service_units)
    return (one.project, one.user, one.model, one.day, *(f"{number:,}" for number in numbers))

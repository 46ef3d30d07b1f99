"""`terascope audit`: who changed access or money."""

import json
from typing import Annotated

import typer

from terascope.cli.connection import with_client
from terascope.cli.show import Json, print_json, table, when
from terascope.client import Client
from terascope.protocol.allocations import AuditView
from terascope.protocol.spreadsheet import csv_text

app = typer.Typer(rich_markup_mode=None, add_completion=False)
_PAGE = 1000


@app.command()
@with_client
def audit(
    client: Client,
    limit: Annotated[int, typer.Option(min=0, help="How many, the newest first; 0 for all.")] = 50,
    target: Annotated[str, typer.Option(help="Only changes of this project, key, allocation, model or run.")] = "",
    user: Annotated[str, typer.Option(help="Only changes by this user.")] = "",
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: Json = False,
) -> None:
    """Show who changed access or money: what, when, from where; newest first."""
    found = _newest(client, limit, target, user)
    if as_csv:
        cells = ((one.model_dump() | {"details": json.dumps(one.details)}).values() for one in found)
        print(csv_text(AuditView.model_fields, cells, line_end="\n"), end="")
    elif as_json:
        print_json(found)
    else:
        rows = ((when(one.time), one.user, one.address, one.action, one.target, _details(one)) for one in found)
        table(("when", "who", "from", "what", "of", "details"), rows, empty="nothing was changed")


def _newest(client: Client, limit: int, target: str, user: str) -> list[AuditView]:
    """Up to `limit` changes, or all, by as many pages as that takes."""
    found: list[AuditView] = []
    more = True
    while more and (not limit or len(found) < limit):
        size = min(limit - len(found), _PAGE) if limit else _PAGE
        page = client.audit.list(limit=size, target=target, user=user, before=found[-1].id if found else "")
        found += page.data
        more = page.has_more
    return found


def _details(one: AuditView) -> str:
    return " ".join(f"{name}={value}" for name, value in one.details.items() if value not in (None, ""))

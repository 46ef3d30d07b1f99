"""`terascope runs`: what was asked, of which weights, how it went."""

from typing import Annotated

import typer

from terascope.cli.connection import with_client
from terascope.cli.show import Json, details, duration, print_json, table, when
from terascope.client import Client
from terascope.protocol.admin import RunView

app = typer.Typer(rich_markup_mode=None, add_completion=False)
_COLUMNS = ("id", "started", "model", "endpoint", "outcome", "tokens in", "out", "took")
_PAGE = 1000


@app.callback()
def runs() -> None:
    """Run records: what was asked, of which weights, how it went. Prompts and answers are not among them."""


@app.command("list")
@with_client
def list_runs(
    client: Client,
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 50,
    model: Annotated[str, typer.Option(metavar="NAME@VERSION", help="Only runs of this model version.")] = "",
    key_id: Annotated[str, typer.Option(metavar="ID", help="Only runs of this key.")] = "",
    as_json: Json = False,
) -> None:
    """List run records, the newest first: everybody's for an operator, else one's own."""
    found = _newest(client, limit, model, key_id)
    print_json(found) if as_json else table(_COLUMNS, map(_row, found), empty="there is no such run")


@app.command()
@with_client
def show(
    client: Client,
    run_id: Annotated[str, typer.Argument(metavar="ID", help="The X-Request-Id of the answer.")],
    as_json: Json = False,
) -> None:
    """Show one run record."""
    run = client.runs.get(run_id)
    if as_json:
        print_json(run)
        return
    shown = run.model_dump(exclude={"parameters"}) | {"started": when(run.started)}
    shown |= {name: duration(getattr(run, name)) for name in ("queued_s", "first_s", "total_s")}
    details(shown.items())
    details((f"parameters.{name}", value) for name, value in run.parameters.items())


def _newest(client: Client, limit: int, model: str, key: str) -> list[RunView]:
    """Up to `limit` records, by as many pages as that takes."""
    found: list[RunView] = []
    more = True
    while more and len(found) < limit:
        before = found[-1].id if found else ""
        page = client.runs.list(limit=min(limit - len(found), _PAGE), model=model, key=key, before=before)
        found += page.data
        more = page.has_more and bool(page.data)
    return found


def _row(run: RunView) -> tuple[str, ...]:
    outcome = run.error if run.error and run.outcome != "completed" else run.outcome
    tokens = (f"{run.prompt_tokens:,}", f"{run.completion_tokens:,}")
    return (run.id, when(run.started), run.model, run.endpoint, outcome, *tokens, duration(run.total_s))

"""`terascope sites`: where one can look into a model."""

from typing import Annotated

import typer

from terascope.cli.connection import with_client
from terascope.cli.show import Json, print_json, table
from terascope.client import Client
from terascope.protocol.trace_results import SiteView

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
@with_client
def sites(
    client: Client,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A name, or NAME@VERSION.")],
    layer: Annotated[int, typer.Option(help="Of the blocks, show this one.")] = 0,
    as_json: Json = False,
) -> None:
    """List the sites of a model: where a plan can look and change, with the shape of what is there for a token."""
    found = client.traces.sites(model)
    if as_json:
        print_json(found)
        return
    shown = [one for one in found.sites if not one.site.startswith("blocks.") or f".{layer}." in one.site]
    rows = ((one.site, _axes(one), "yes" if one.writable else "", one.meaning) for one in shown)
    table(("site", "axes", "writable", "meaning"), rows, empty=f"{found.model} has no block {layer}")


def _axes(one: SiteView) -> str:
    return " x ".join(f"{axis.name} {axis.size}" for axis in one.axes)

"""`terascope whoami`: who one is at the gateway."""

import typer

from terascope.cli.connection import with_client
from terascope.cli.show import Json, details, print_json, when
from terascope.client import Client

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
@with_client
def whoami(client: Client, as_json: Json = False) -> None:
    """Show who one is at the gateway, and what one may do."""
    me = client.identity.me()
    if as_json:
        print_json(me)
        return
    projects = [f"{one.name} ({one.role})" if one.role else one.name for one in me.projects]
    details(
        (
            ("gateway", client.url),
            ("user", me.user),
            ("key", me.key_id),
            ("scopes", me.scopes),
            ("until", when(me.expires)),
            ("pays", f"{me.project}, and no other" if me.confined else me.project),
            ("projects", projects),
        )
    )

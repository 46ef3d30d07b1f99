"""`terascope keys`: who may ask."""

import re
import sys
import time
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from terascope.cli.connection import with_client
from terascope.cli.files import private_file
from terascope.cli.show import Json, print_json, table, when
from terascope.client import Client
from terascope.protocol.admin import KeyView, NewKey

app = typer.Typer(rich_markup_mode=None, add_completion=False)
_SPAN = re.compile(r"(\d{1,6})([hdw])\Z")
_SECONDS = {"h": 3600, "d": 86400, "w": 7 * 86400}


@app.callback()
def keys() -> None:
    """API keys: who may ask."""


@app.command()
@with_client
def create(
    client: Client,
    name: Annotated[str, typer.Argument(help="Whose key it is, or what for.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="query, embed, internals, tune or operator; may be repeated.", show_default="query, embed"),
    ] = None,
    expires: Annotated[
        str, typer.Option(help="12h, 30d, 8w, or a local date such as 2027-01-01.", show_default="never")
    ] = "",
    key_file: Annotated[
        Path | None, typer.Option(help="Write the key to this new file (mode 0600) and do not print it.")
    ] = None,
    user: Annotated[str, typer.Option(help="Whose key it is.", show_default="NAME")] = "",
    project: Annotated[str, typer.Option(help="Who pays; the user becomes a member of it.", show_default="local")] = "",
    as_json: Json = False,
) -> None:
    """Make a key. It is shown once and cannot be had again.

    A PI makes keys for her own project; they work in no other.
    """
    until = expiry(expires, time.time()) if expires else None
    create_key = partial(client.keys.create, name, scope or (), expires=until, user=user, project=project)
    if key_file is None:
        made = create_key()
        print_json(made) if as_json else _show_once(made)
        return
    with private_file(key_file) as file:
        made = create_key()
        file.write(made.key + "\n")
    view = KeyView(**made.model_dump(exclude={"key"}))
    print_json(view) if as_json else print(f"{_about(made)} is in {key_file}")


@app.command("list")
@with_client
def list_keys(
    client: Client,
    project: Annotated[str, typer.Option(help="Only those of this project; a PI names hers.")] = "",
    as_json: Json = False,
) -> None:
    """List every key, without the keys."""
    found = client.keys.list(project=project).data
    if as_json:
        print_json(found)
        return
    rows = (
        (one.id, one.name, f"{one.prefix}...", " ".join(one.scopes), one.project, when(one.created), _state(one))
        for one in found
    )
    table(("id", "name", "begins", "scopes", "project", "made", "state"), rows, empty="there is no key")


@app.command()
@with_client
def revoke(
    client: Client,
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The id that `terascope keys list` shows.")],
    as_json: Json = False,
) -> None:
    """Make a key void at once."""
    gone = client.keys.revoke(key_id)
    print_json(gone) if as_json else print(f"{gone.id} ({gone.name}) is revoked")


def expiry(text: str, now: float) -> float:
    """Read a time span (`30d`) or a local date or time (ISO 8601) as seconds since the epoch.

    Raises `typer.BadParameter`.
    """
    if match := _SPAN.match(text):
        return now + int(match[1]) * _SECONDS[match[2]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is no time; write 12h, 30d, 8w or a date like 2027-01-01") from None


def _show_once(made: NewKey) -> None:
    """The key alone on stdout, so that a script can take it."""
    print(made.key, flush=True)
    print(f"This is {_about(made)}. It is shown only now.", file=sys.stderr)


def _about(key: KeyView) -> str:
    until = f", until {when(key.expires)}" if key.expires else ""
    return f"{key.id} ({key.name}; {', '.join(key.scopes)}{until})"


def _state(key: KeyView) -> str:
    if key.revoked is not None:
        return f"revoked {when(key.revoked)}"
    if key.expires is None:
        return "valid"
    return f"{'expired' if key.expires <= time.time() else 'until'} {when(key.expires)}"

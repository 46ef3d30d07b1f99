"""`terascope logout`: forget the login."""

import sys

import typer

from terascope.cli.connection import DataDir, Url, find
from terascope.client import logins, oauth
from terascope.core.errors import ServiceError

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def logout(url: Url = "", data_dir: DataDir = None) -> None:
    """Forget the login at the gateway, and tell the issuer so."""
    where = find(url, "", data_dir).url
    login = logins.load(where)
    logins.remove(where)
    if login is None:
        print(f"there is no login at {where}", file=sys.stderr)
        return
    try:
        oauth.revoke(login)
    except ServiceError as error:
        print(f"the issuer could not be told: {error.message}", file=sys.stderr)
    print(f"signed out at {where}")

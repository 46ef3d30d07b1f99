"""`terascope login`: sign in at the gateway's issuer by device code."""

from pathlib import Path
from typing import Annotated

import typer

from terascope.cli.connection import DataDir, Url, find
from terascope.cli.show import clean, when
from terascope.client import Client, logins, oauth
from terascope.client.oauth import Pending

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def login(
    issuer: Annotated[str, typer.Option(help="Which issuer, where the gateway has several.")] = "",
    url: Url = "",
    data_dir: DataDir = None,
) -> None:
    """Sign in at the gateway's issuer; the commands and the SDK then act as you.

    Open the address that is shown, in any browser, and enter the code. The token is kept in a file that only you can
    read, and renewed by itself. A key that is named by --key or TERASCOPE_API_KEY goes before it.
    """
    sign_in(_url(url, data_dir), issuer)


def sign_in(url: str, issuer: str = "") -> None:
    """Sign in at the gateway `url`, and keep the login once the gateway has taken its token."""
    pending = oauth.begin(url, oauth.login_option(url, issuer))
    _show(pending)
    made = oauth.finish(pending)
    with Client(url, made.token) as client:
        me = client.identity.me()
    logins.save(made)
    renewed = ", renewed by itself" if made.refresh_token else ""
    print(f"You are {clean(me.user)} at {url}; the token is good until {when(made.expires)}{renewed}.")


def _show(pending: Pending) -> None:
    code = pending.code
    print(f"Open {clean(code.verification_uri)} in a browser and enter the code\n\n    {clean(code.user_code)}\n")
    if code.verification_uri_complete:
        print(f"or open {clean(code.verification_uri_complete)} and see that the code is the same.\n", flush=True)


def _url(url: str, data_dir: Path | None) -> str:
    return find(url, "", data_dir).url

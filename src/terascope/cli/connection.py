"""Which gateway a command asks, and with which key."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec

import typer

from terascope.cli import settings
from terascope.client import Client, logins
from terascope.client.clients import DEFAULT_URL, checked_url
from terascope.core import environment
from terascope.core.errors import ConfigError, GatewayUnreachable, NotAuthenticated

P = ParamSpec("P")
Url = Annotated[str, typer.Option("--url", help="The gateway's URL.", show_default="TERASCOPE_URL")]
Key = Annotated[str, typer.Option("--key", help="An API key.", show_default="TERASCOPE_API_KEY")]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="The data directory of a gateway on this machine.", show_default="TERASCOPE_DATA_DIR"
    ),
]
_LOCAL = Path(".terascope")  # where `make serve` keeps its data


@dataclass(frozen=True, slots=True)
class Connection:
    """A gateway and a key for it; `key` is empty when none is known. `looked` says what was looked at in vain.

    `login`: there is no key, but a token of `terascope login`, which the client finds by itself.
    """

    url: str
    key: str = field(repr=False)
    found: bool = True
    looked: str = ""
    login: bool = False


def find(url: str = "", key: str = "", data_dir: Path | None = None) -> Connection:
    """Find the gateway: by option, by environment, or by the file a gateway on this machine leaves while it runs.

    A data directory that is named outright goes before the environment. The file's key is the operator's; it goes to
    the URL beside it and to no other. Who has signed in there with `terascope login` is that user, and no operator,
    unless a key or a data directory is named. Raises `ConfigError` for something that is no URL.
    """
    if data_dir is None:
        url, key = url or environment.url(), key or environment.api_key()
    looked = []
    for directory in _directories(data_dir):
        try:
            local = _read(directory / "operator.json")
        except OSError as error:
            looked.append(f"{directory}: {error.strerror}")
            continue
        if local is not None and (not url or checked_url(url) == local.url):
            login = data_dir is None and not key and logins.load(local.url) is not None
            return Connection(local.url, "" if login else key or local.key, login=login)
        looked.append(f"{directory}: {'another gateway' if local else 'none runs'}")
    where = checked_url(url or DEFAULT_URL)
    return Connection(where, key, bool(url), "; ".join(looked), login=not key and logins.load(where) is not None)


@contextmanager
def connected(url: str, key: str, data_dir: Path | None) -> Iterator[Client]:
    """A client of the gateway that `found` finds. Raises as that."""
    connection = found(url, key, data_dir)
    with Client(connection.url, connection.key) as client:
        yield client


def found(url: str, key: str, data_dir: Path | None) -> Connection:
    """What `find` finds, if it can be asked.

    Raises `GatewayUnreachable` or `NotAuthenticated`, with the next step, when there is none or no key for it.
    """
    connection = find(url, key, data_dir)
    if not (connection.found or connection.key or connection.login):
        raise GatewayUnreachable(
            f"no gateway is known ({connection.looked}); start one with `terascope serve`, "
            "or set TERASCOPE_URL and TERASCOPE_API_KEY"
        )
    if not connection.key and not connection.login:
        raise NotAuthenticated(
            f"no API key for {connection.url}; sign in with `terascope login`, or set TERASCOPE_API_KEY"
        )
    return connection


def local_data_dir(given: Path | None) -> Path:
    """The data directory that a gateway on this machine has, or would have."""
    directories = _directories(given)
    return next((one for one in directories if one.is_dir()), directories[-1])


def with_client(command: Callable[Concatenate[Client, P], None]) -> Callable[..., None]:
    """Give a command the options that say which gateway, and a client of it as first argument."""

    @wraps(command)
    def run(*, url: str = "", key: str = "", data_dir: Path | None = None, **arguments: Any) -> None:
        with connected(url, key, data_dir) as client:
            command(client, **arguments)  # type: ignore[call-arg] # typer passes what the signature says

    own = [one.replace(kind=Parameter.KEYWORD_ONLY) for one in list(signature(command).parameters.values())[1:]]
    which = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, default, annotation in (("url", "", Url), ("key", "", Key), ("data_dir", None, DataDir))
    ]
    parameters = [*own, *which]
    run.__signature__ = signature(run).replace(parameters=parameters)  # type: ignore[attr-defined] # read by typer
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def _directories(given: Path | None) -> list[Path]:
    if given or environment.data_dir():
        return [settings.data_dir(given)]
    return [_LOCAL.absolute(), settings.data_dir(None)]


def _read(path: Path) -> Connection | None:
    """What a running gateway left at `path`; None when there is no such file, or it is not to be trusted."""
    try:
        with path.open() as file:
            # in a directory that others can write to, theirs could lead our prompts anywhere
            if os.fstat(file.fileno()).st_uid not in (os.getuid(), 0):
                raise PermissionError(0, "operator.json belongs to another user")
            told = json.load(file)
            return Connection(checked_url(told["url"]), told["key"])
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, ConfigError):
        return None

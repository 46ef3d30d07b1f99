"""The running gateway: do its deployments answer, and are the models' files whole?"""

from collections.abc import Iterator
from pathlib import Path

from terascope.cli.checks.finding import Finding, error, ok, warning
from terascope.cli.connection import Connection
from terascope.client import Client
from terascope.core.errors import NotAllowed, ServiceError
from terascope.core.urls import is_loopback
from terascope.protocol.admin import ModelView


def check_gateway(connection: Connection) -> Iterator[Finding]:
    """Ask the gateway, when one is known."""
    if not connection.found:
        advice = "start one with `terascope serve`, or set TERASCOPE_URL; models are looked at through it"
        yield warning("gateway", f"none is known ({connection.looked})", advice)
        return
    with Client(connection.url, connection.key) as client:
        try:
            states = client.ready().deployments
        except ServiceError as problem:
            yield error("gateway", problem.message, "docs/errors/gateway_unreachable.md has the usual reasons")
            return
        yield ok("gateway", f"answers at {connection.url}")
        yield from (_deployment(name, state) for name, state in states.items())
        yield from _models(client, connection)


def _deployment(name: str, state: str) -> Finding:
    about = f"deployment {name}"
    if state in ("ready", "cold"):
        return ok(about, state)
    if state == "starting":
        return warning(about, state, "wait; `terascope models list` shows when it is ready")
    return error(about, state, "the gateway's log, and logs/ in its data directory, say why")


def _models(client: Client, connection: Connection) -> Iterator[Finding]:
    if not connection.key and not connection.login:
        yield warning("models", "not looked at: there is no key", "set TERASCOPE_API_KEY")
        return
    try:
        versions = client.catalog.list().data
    except NotAllowed:
        yield warning("models", "not looked at: that takes an operator's key", "run this on the gateway's machine")
    except ServiceError as problem:
        yield error("models", problem.message, "set TERASCOPE_API_KEY to a valid key")
    else:
        yield from (check_model(one, here=is_loopback(connection.url)) for one in versions)


def check_model(one: ModelView, *, here: bool) -> Finding:
    """Look at one version; `here`: its files are on this machine, so their sizes are compared too."""
    about = f"model {one.name}@{one.version}"
    if here and (damaged := list(_damaged(one))):
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        advice = f"bring the files back, or `terascope models remove {one.name}@{one.version}` and add it anew"
        return error(about, f"{damaged[0]}{more}", advice)
    return ok(about, f"{one.state}, {len(one.files)} files" if one.files else one.state)


def _damaged(one: ModelView) -> Iterator[str]:
    for file in one.files:
        path = Path(one.directory) / file.path
        try:
            found = path.stat().st_size
        except OSError as problem:
            yield f"{path}: {problem.strerror}"
        else:
            if found != file.size:
                yield f"{path} has {found} bytes in place of {file.size}"

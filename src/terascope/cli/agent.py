"""`terascope agent`: beside an engine on a node that takes no connections; it dials out to the gateway."""

import asyncio
import signal
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from terascope.cli.logs import set_up
from terascope.core import environment
from terascope.core.clock import SystemClock
from terascope.core.errors import ConfigError
from terascope.fleet.tunnel.agent import Agent
from terascope.fleet.tunnel.dial import engine_target, tunnel_dial

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def agent(
    gateway: Annotated[str, typer.Option(help="URL of the gateway, https://host[:port][/prefix].")],
    engine: Annotated[str, typer.Option(help="The engine, on this machine: unix:/path or http://127.0.0.1:PORT.")],
    deployment: Annotated[
        str, typer.Option(help="Deployment whose engine this is.", show_default="TERASCOPE_AGENT_DEPLOYMENT")
    ] = "",
    token_file: Annotated[
        Path | None, typer.Option(help="File with the token.", show_default="TERASCOPE_AGENT_TOKEN")
    ] = None,
    log: Annotated[Path | None, typer.Option(help="The engine's log, for `terascope deploy logs`.")] = None,
    ca: Annotated[
        Path | None, typer.Option(help="Certificates to trust the gateway by.", show_default="the system's")
    ] = None,
    plain_http: Annotated[
        bool, typer.Option("--plain-http", help="Let the token and all answers travel in the clear.")
    ] = False,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Keep a tunnel to the gateway open until SIGINT or SIGTERM; jobs of sites with `reach: tunnel` start it.

    It shows the token of its replica, which is in TERASCOPE_AGENT_TOKEN or in a file, never on the command line.
    """
    set_up(log_level)
    name = deployment or environment.agent_deployment()
    if not name:
        raise ConfigError("which deployment? set TERASCOPE_AGENT_DEPLOYMENT, or use --deployment")
    dial = tunnel_dial(gateway, name, _token(token_file), ca=ca, plain=plain_http)
    asyncio.run(_run(Agent(dial, engine_target(engine, log), SystemClock())))


async def _run(agent: Agent) -> None:
    running = asyncio.ensure_future(agent.run())
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    with suppress(asyncio.CancelledError):
        await running


def _token(path: Path | None) -> str:
    try:
        return path.read_text().strip() if path else environment.agent_token()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the token cannot be read from {path}: {error}") from None

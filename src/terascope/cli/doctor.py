"""`terascope doctor`: is everything as it should be, and if not, what to do."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from terascope.cli import settings
from terascope.cli.checks.configuration import check_configuration, check_port, read_configuration
from terascope.cli.checks.finding import Finding, Level
from terascope.cli.checks.gateway import check_gateway
from terascope.cli.checks.machine import check_machine
from terascope.cli.checks.site import check_site
from terascope.cli.connection import DataDir, Key, Url, find, local_data_dir
from terascope.cli.show import Json, clean, print_json
from terascope.core import environment

app = typer.Typer(rich_markup_mode=None, add_completion=False)
_SIGNS = {Level.OK: ("✓", "green"), Level.WARNING: ("!", "yellow"), Level.ERROR: ("✗", "red")}


@app.command()
def doctor(
    config: Annotated[
        Path | None, typer.Option(help="A terascope.yaml to check.", show_default="TERASCOPE_CONFIG")
    ] = None,
    url: Url = "",
    key: Key = "",
    data_dir: DataDir = None,
    site: Annotated[str, typer.Option(help="Check this entry of `sites`, from a login node of it.")] = "",
    as_json: Json = False,
) -> None:
    """Check the machine, the configuration and each model, and say what to do.

    With --site, check a cluster instead: its batch system, its directories and its engines' Python.

    Nothing is started, fetched or changed. The exit status is 1 when something will not work.
    """
    found: list[tuple[str, Finding]] = []
    file = config or environment.config_file()
    findings = examine_site(file, site) if site else examine(file, url, key, data_dir)
    for part, finding in findings:
        if not as_json:
            _show(part, finding, first=not found or found[-1][0] != part)
        found.append((part, finding))
    if as_json:
        print_json([{"part": part} | asdict(finding) for part, finding in found])
    if any(finding.level is Level.ERROR for _, finding in found):
        raise typer.Exit(1)


def examine(config_file: Path | None, url: str, key: str, data_dir: Path | None) -> Iterator[tuple[str, Finding]]:
    """Yield each finding with the part it belongs to, as soon as it is known."""
    cache_dir = settings.cache_dir()
    config, read = read_configuration(config_file)
    torch = config is not None and any(one.engine == "torch" for one in config.deployments)
    yield from (("machine", one) for one in check_machine(local_data_dir(data_dir), cache_dir, needs_torch=torch))
    yield "configuration", read
    if config is not None:
        yield from (("configuration", one) for one in check_configuration(config, cache_dir))
        yield "configuration", check_port(config.server, _bind)
    yield from (("gateway", one) for one in check_gateway(find(url, key, data_dir)))


def examine_site(config_file: Path | None, name: str) -> Iterator[tuple[str, Finding]]:
    """Yield each finding about the site `name`."""
    config, read = read_configuration(config_file)
    yield "configuration", read
    if config is not None:
        yield from ((f"site {name}", one) for one in check_site(config, name))


def _bind(host: str, port: int) -> None:
    from terascope.cli.serve import bound

    with bound(host, port):
        pass


def _show(part: str, finding: Finding, *, first: bool) -> None:
    if first:
        typer.secho(part, bold=True)
    sign, colour = _SIGNS[finding.level]
    typer.echo(f"  {typer.style(sign, fg=colour)} {clean(finding.about)}: {clean(finding.says)}")
    if finding.advice:
        typer.echo(f"      {clean(finding.advice)}")

"""`terascope deploy`: which models are served, by which engine, where, and how often."""

import re
import shlex
from typing import Annotated

import typer
from pydantic import ValidationError

from terascope.cli.connection import with_client
from terascope.cli.show import Json, details, print_json, table, when
from terascope.client import Client
from terascope.core.errors import BadRequest
from terascope.protocol.deployments import DeploymentPreview, DeploymentSettings, DeploymentView, Layout

app = typer.Typer(rich_markup_mode=None, add_completion=False)
_Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the deployment.")]


@app.callback()
def deploy() -> None:
    """Deployments: which models are served, by which engine, where, and how often."""


@app.command()
@with_client
def create(
    client: Client,
    name: _Name,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model of the catalogue, NAME or NAME@VERSION.")],
    engine: Annotated[str, typer.Option(help="torch, vllm, openvino, remote or echo.")] = "torch",
    site: Annotated[str, typer.Option(help="Entry of `sites` to run on.", show_default="this machine")] = "",
    replicas: Annotated[int, typer.Option(help="How many to keep.")] = 1,
    least: Annotated[int | None, typer.Option("--min", help="Fewest, where the load says how many.")] = None,
    most: Annotated[int | None, typer.Option("--max", help="Most, where the load says how many.")] = None,
    hot: Annotated[int, typer.Option(help="How many stand by beside the busy ones.")] = 0,
    idle: Annotated[str, typer.Option(help="How long fewer must have been enough: 90s, 10m, 2h.")] = "10m",
    mode: Annotated[list[str] | None, typer.Option(help="What it is for; may be repeated.")] = None,
    qos: Annotated[list[str] | None, typer.Option(help="Whose requests it takes; may be repeated.")] = None,
    tensor: Annotated[int, typer.Option(help="vllm: devices that share each layer.")] = 1,
    pipeline: Annotated[int, typer.Option(help="vllm: groups of layers, one after the other.")] = 1,
    data: Annotated[int, typer.Option(help="vllm: copies of the attention.")] = 1,
    expert: Annotated[bool, typer.Option("--expert", help="vllm: spread experts over all devices.")] = False,
    nodes: Annotated[int, typer.Option(help="vllm: nodes of the site that share the devices evenly.")] = 1,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.", show_default="the engine's choice")] = "",
    quantization: Annotated[str, typer.Option(help="vllm: how weights are stored.")] = "",
    context_length: Annotated[int, typer.Option(help="Longest prompt and answer, in tokens.")] = 0,
    max_batch: Annotated[int, typer.Option(help="Most requests in the running batch.")] = 0,
    server: Annotated[str, typer.Option(help="remote: base URL of the server.")] = "",
    launcher: Annotated[str, typer.Option(help="local, or inprocess for engines without a process.")] = "local",
    option: Annotated[list[str] | None, typer.Option(help="NAME=VALUE for the engine; may be repeated.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be started, and start nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Serve a model: its replicas are kept from now on, whatever ends."""
    settings = _settings(
        model=model, engine=engine, site=site, replicas=replicas, dtype=dtype, quantization=quantization,
        layout={"tensor": tensor, "pipeline": pipeline, "data": data, "expert": expert, "nodes": nodes},
        url=server, launcher=launcher,
        context_length=context_length, max_batch=max_batch, options=_options(option or []),
        min=least, max=most, hot=hot, idle_s=_seconds(idle), **_given(modes=mode, qos=qos),
    )  # fmt: skip
    if dry_run:
        preview = client.deployments.preview(name, settings)
        print_json(preview) if as_json else _print_preview(preview)
        return
    one = client.deployments.create(name, settings)
    print_json(one) if as_json else print(
        f"{one.name} serves {one.model}; `terascope deploy show {one.name}` follows it"
    )


@app.command("list")
@with_client
def list_deployments(client: Client, as_json: Json = False) -> None:
    """List the deployments."""
    found = client.deployments.list().data
    if as_json:
        print_json(found)
        return
    rows = ((one.name, one.model, one.engine, _where(one), f"{one.ready}/{one.replicas}", one.state) for one in found)
    table(("name", "model", "engine", "where", "ready", "state"), rows, empty="nothing is deployed")


@app.command()
@with_client
def show(client: Client, name: _Name, as_json: Json = False) -> None:
    """Show a deployment and its replicas."""
    one = client.deployments.show(name)
    if as_json:
        print_json(one)
        return
    origin = "the configuration" if one.declared else f"an operator, {when(one.created)}"
    details([
        ("name", one.name), ("model", one.model), ("engine", one.engine), ("where", _where(one)),
        ("wanted", _number(one) if one.target == "running" else "stopped"),
        ("ready", one.ready), ("state", one.state), ("message", one.message), ("made by", origin),
    ])  # fmt: skip
    rows = (
        (row.id, row.status, str(row.handle.get("job", "")), str(row.restarts), when(row.changed), row.message)
        for row in one.running
    )
    print()
    table(("replica", "status", "job", "restarts", "changed", "message"), rows, empty="it has had no replica yet")


@app.command()
@with_client
def scale(
    client: Client,
    name: _Name,
    replicas: Annotated[int | None, typer.Argument(metavar="[REPLICAS]", help="How many to keep.")] = None,
    least: Annotated[int | None, typer.Option("--min", help="Fewest, where the load says how many.")] = None,
    most: Annotated[int | None, typer.Option("--max", help="Most, where the load says how many.")] = None,
) -> None:
    """Keep another number of replicas, or let the load say how many; those over it finish what they are answering."""
    if replicas is least is most is None:
        raise BadRequest("say how many replicas to keep, or --min and --max; `terascope deploy stop` keeps none")
    one = client.deployments.scale(name, replicas, least=least, most=most)
    print(f"{one.name} keeps {_number(one)}")


@app.command()
@with_client
def stop(client: Client, name: _Name) -> None:
    """Keep no replica, until it is scaled again."""
    client.deployments.stop(name)
    print(f"{name} is stopped; `terascope deploy scale {name} 1` starts it again")


@app.command()
@with_client
def remove(client: Client, name: _Name) -> None:
    """Forget a deployment; its replicas finish what they are answering."""
    client.deployments.remove(name)
    print(f"{name} is removed")


@app.command()
@with_client
def events(
    client: Client,
    name: _Name,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, the newest.")] = 100,
    as_json: Json = False,
) -> None:
    """Show what happened to a deployment and its replicas, and why; the newest last."""
    found = client.deployments.events(name, limit).data[::-1]
    if as_json:
        print_json(found)
        return
    rows = ((when(one.time), one.replica, one.what, one.message) for one in found)
    table(("when", "replica", "what", "why"), rows, empty="nothing has happened yet")


@app.command()
@with_client
def logs(
    client: Client,
    name: _Name,
    replica: Annotated[str, typer.Option(help="Of this replica.", show_default="the newest")] = "",
    lines: Annotated[int, typer.Option(help="How many of the last lines.")] = 200,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what is added, until Ctrl-C.")] = False,
    rank: Annotated[int, typer.Option(help="Of this node, where a replica has several.", min=0)] = 0,
    all_ranks: Annotated[bool, typer.Option("--all-ranks", help="Of all its nodes, one after the other.")] = False,
) -> None:
    """Print the last lines of a replica's log."""
    if all_ranks:
        if follow or rank:
            raise BadRequest("--all-ranks prints what is there; follow one node with --rank and --follow")
        _print_all(client, name, replica, lines)
        return
    if not follow:
        print(client.deployments.log(name, replica, lines, rank).text, end="")
        return
    with client.deployments.follow_log(name, replica, lines, rank) as pieces:
        for piece in pieces:
            print(piece, end="", flush=True)


def _print_all(client: Client, name: str, replica: str, lines: int) -> None:
    """The logs of all nodes of a replica, under headings as those of `tail`."""
    for rank in range(client.deployments.show(name).settings["layout"]["nodes"]):
        text = client.deployments.log(name, replica, lines, rank).text
        print(f"==> rank {rank} <==\n{text}", end="" if text.endswith("\n") else "\n")


def _number(one: DeploymentView) -> str:
    if one.min < one.max:
        return f"{one.min} to {one.max} replicas by the load, {one.replicas} now"
    return f"{one.replicas} replicas"


def _seconds(text: str) -> float:
    """A duration as people write it: `90`, `90s`, `10m`, `2h`, `1d`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip())
    if not found:
        raise BadRequest(f"--idle {text!r} is no duration; write 90s, 10m or 2h")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


def _given(**fields: list[str] | None) -> dict[str, list[str]]:
    return {name: value for name, value in fields.items() if value}


def _where(one: DeploymentView) -> str:
    return one.site or ("elsewhere" if one.engine == "remote" else "this machine")


def _settings(**fields: object) -> DeploymentSettings:
    try:
        layout = Layout.model_validate(fields.pop("layout"))
        return DeploymentSettings.model_validate({**fields, "layout": layout})
    except ValidationError as error:
        first = error.errors()[0]
        raise BadRequest(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _options(given: list[str]) -> dict[str, str]:
    for one in given:
        if "=" not in one:
            raise BadRequest(f"--option {one!r} must be NAME=VALUE; write {one}= for one without a value")
    return {name: value for name, _, value in (one.partition("=") for one in given)}


def _print_preview(preview: DeploymentPreview) -> None:
    print(preview.script or shlex.join(preview.command))
    if preview.variables:
        print(f"# with {', '.join(preview.variables)} in the environment")

"""`terascope plan`: can this model be served on these GPUs, how fast, at what cost, and what to type."""

from pathlib import Path
from typing import Annotated

import typer

from terascope.cli import plan_disaggregated as divided
from terascope.cli import plan_show as show
from terascope.cli.calibrate import known
from terascope.cli.plan_models import planned_model
from terascope.cli.show import Json, print_json
from terascope.core.errors import BadRequest
from terascope.planner import Load, Plans, Wish, find_gpu, gpus, make_load, needs, parse_cluster, search
from terascope.planner.report import need_report

app = typer.Typer(rich_markup_mode=None, add_completion=False)
_MODELS = typer.Argument(
    metavar="MODEL...", help="Name in the library or the catalogue, or path of a config.json.", show_default=False
)
_ON = typer.Option(metavar="CLUSTER", help="4x8xH200, 16xjupiter or 4xmine.yaml.")
_PLOT = typer.Option(help="Write the frontier of latency and throughput: .png or .svg.")
_DISAGGREGATED = typer.Option(
    "--disaggregated", help="Prompts and answers on GPUs of their own; --emit writes these, but for compose."
)


@app.command()
def plan(
    models: Annotated[list[str] | None, _MODELS] = None,
    on: Annotated[list[str] | None, _ON] = None,
    users: Annotated[int, typer.Option(help="Requests in flight at once; 0: as many as go.")] = 0,
    input: Annotated[int, typer.Option(help="Tokens of a prompt.")] = 1024,
    output: Annotated[int, typer.Option(help="Tokens of an answer.")] = 512,
    ttft: Annotated[str, typer.Option(metavar="TIME", help="Longest time to the first token, such as 2s.")] = "",
    itl: Annotated[str, typer.Option(metavar="TIME", help="Longest time between tokens, such as 50ms.")] = "",
    engine: Annotated[str, typer.Option(help="vllm, sglang or torch.")] = "vllm",
    quantization: Annotated[str, typer.Option(help="auto, bf16, fp8, nvfp4, mxfp4, int4, ...")] = "auto",
    kv_dtype: Annotated[str, typer.Option(help="KV cache: auto, bf16 or fp8.")] = "auto",
    context: Annotated[int, typer.Option(help="Longest sequence to be taken; 0: prompt and answer.")] = 0,
    utilization: Annotated[float, typer.Option(min=0.1, max=1.0, help="Part of GPU memory for the engine.")] = 0.9,
    price: Annotated[float, typer.Option(min=0, help="US dollars for a GPU hour; 0: the data's.")] = 0.0,
    pue: Annotated[float, typer.Option(min=1, max=10, help="Power of the building over that of computers.")] = 1.2,
    compare: Annotated[bool, typer.Option("--compare", help="Best plan of each model on each cluster.")] = False,
    fit: Annotated[bool, typer.Option("--fit", help="What to buy for the load; --on limits the GPUs.")] = False,
    top: Annotated[int, typer.Option(min=1, help="How many plans and refusals to show.")] = 5,
    disaggregated: Annotated[bool, _DISAGGREGATED] = False,
    plot: Annotated[Path | None, _PLOT] = None,
    emit: Annotated[str, typer.Option(help="Launch files: slurm, pbs, kubernetes, compose or deploy.")] = "",
    rank: Annotated[int, typer.Option(min=1, help="Which of the plans --emit writes.")] = 1,
    into: Annotated[Path | None, typer.Option(help="Directory for launch files; without it they are shown.")] = None,
    constants: Annotated[str, typer.Option(help="shipped, or a file; default: what calibrate kept.")] = "",
    listed: Annotated[str, typer.Option("--list", metavar="WHAT", help="Show what is known: models or systems.")] = "",
    as_json: Json = False,
) -> None:
    """Plan how to serve a model: what fits, how fast, at what cost, and what to type.

    Works on this machine alone. The range beside a time held four of five measurements that were kept apart.
    """
    if listed:
        show.listed(listed, as_json=as_json)
        return
    _alone(disaggregated, fit or compare or bool(plot))
    load, wish = make_load(input, output, users, ttft, itl), Wish(engine, quantization, kv_dtype, context, utilization)
    if fit:
        _fit(models or [], on or [], load, wish, constants, as_json=as_json)
        return
    found = _searched(_pairs(models, on), load, wish, constants)
    if compare:
        show.compared(found, price, pue, as_json=as_json)
    elif emit:
        show.written((divided.files if disaggregated else show.files)(_only(found), emit, rank), into)
    elif plot:
        _plot(_only(found), plot)
    elif disaggregated and not as_json:
        divided.shown(_only(found), top)
    else:
        show.plans(_only(found), price, pue, top, as_json=as_json)


def _alone(disaggregated: bool, others: bool) -> None:
    if disaggregated and others:
        raise BadRequest("--disaggregated goes with none of --fit, --compare and --plot", param="disaggregated")


def _searched(pairs: list[tuple[str, str]], load: Load, wish: Wish, constants: str) -> list[Plans]:
    asked = [(planned_model(model), parse_cluster(where)) for model, where in pairs]
    its = known(constants, {cluster.gpu.name for _, cluster in asked})
    return [search(model, cluster, load, wish, its.get(cluster.gpu.name)) for model, cluster in asked]


def _only(found: list[Plans]) -> Plans:
    if len(found) > 1:
        raise BadRequest("several models or clusters are compared: add --compare", param="compare")
    return found[0]


def _pairs(models: list[str] | None, on: list[str] | None) -> list[tuple[str, str]]:
    if not models:
        raise BadRequest("say which model: terascope plan MODEL --on 4x8xH200", param="model")
    if not on:
        raise BadRequest("say on what: --on NODESxGPUSxGPU such as --on 4x8xH200; or ask --fit what to buy", param="on")
    return [(model, where) for model in models for where in on]


def _fit(models: list[str], names: list[str], load: Load, wish: Wish, constants: str, *, as_json: bool) -> None:
    if len(models) != 1:
        raise BadRequest("--fit takes one model: terascope plan MODEL --fit --users 400", param="model")
    its = known(constants, {find_gpu(name).name for name in names} or {one.name for one in gpus()})
    found = needs(planned_model(models[0]), load, wish, tuple(names), its)
    print_json([need_report(one) for one in found]) if as_json else show.fitted(found)


def _plot(found: Plans, path: Path) -> None:
    from terascope.cli.plan_plot import draw

    draw(found, path)
    typer.echo(f"wrote {path}", err=True)

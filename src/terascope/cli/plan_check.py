"""`terascope plan check`: a served model beside its plan."""

import time
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from terascope.cli.calibrate import known
from terascope.cli.connection import DataDir, Key, Url, found
from terascope.cli.plan_measured import Measured, between, look
from terascope.cli.plan_models import catalogue_shapes
from terascope.cli.show import Json, clean, print_json, table
from terascope.client import Client
from terascope.core.errors import BadRequest
from terascope.planner import Load, Plan, Plans, Wish, parse_cluster, search
from terascope.planner.constants import band

app = typer.Typer(rich_markup_mode=None, add_completion=False)
_OFF = 1


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure: as planned, with its range, and as measured."""

    name: str
    unit: str
    planned: float
    low: float
    high: float
    measured: float

    @property
    def verdict(self) -> str:
        """Where the measurement is."""
        if self.measured < self.low:
            return "below"
        return "above" if self.measured > self.high else "as planned"


@app.command()
def check(
    model: Annotated[str, typer.Argument(metavar="DEPLOYMENT", help="A served model, by name, NAME@VERSION or alias.")],
    on: Annotated[str, typer.Option(metavar="CLUSTER", help="The GPUs of all its replicas, such as 2x8xH200.")],
    seconds: Annotated[float, typer.Option(min=0.1, max=86400, help="How long to watch.")] = 30.0,
    layout: Annotated[
        str, typer.Option(help="Its layout as plan names it, such as 'TP8 EP8'; default: the best.")
    ] = "",
    engine: Annotated[str, typer.Option(help="vllm, sglang or torch.")] = "vllm",
    quantization: Annotated[str, typer.Option(help="As for plan.")] = "auto",
    kv_dtype: Annotated[str, typer.Option(help="As for plan.")] = "auto",
    utilization: Annotated[float, typer.Option(min=0.1, max=1.0, help="As for plan.")] = 0.9,
    constants: Annotated[str, typer.Option(help="As for plan.")] = "",
    url: Url = "",
    key: Key = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Compare a served model with its plan: cache, time to the first token, between tokens, and throughput.

    It watches the answers that the gateway's users get meanwhile, plans the same load on the same GPUs, and names what
    is off. Ends with status 1 when something is.
    """
    gateway = found(url, key, data_dir)
    with Client(gateway.url, gateway.key) as client:
        version = client.catalog.get(model)
    name = f"{version.name}@{version.version}"
    before, started = look(gateway, name), time.monotonic()
    time.sleep(seconds)
    seen = between(before, look(gateway, name), time.monotonic() - started)
    if seen is None:
        raise BadRequest(
            f"no answer of {name} ended in {seconds:g} s; watch longer, or while it is used", param="model"
        )
    cluster = parse_cluster(on)
    load = Load(max(1, round(seen.input)), max(1, round(seen.output)), max(1, round(seen.users)))
    its = known(constants, {cluster.gpu.name}).get(cluster.gpu.name)
    wish = Wish(engine, quantization, kv_dtype, 0, utilization)
    plans = search(catalogue_shapes(version), cluster, load, wish, its)
    plan = chosen(plans, layout)
    _show(name, plan, seen, compare(plan, seen), as_json=as_json)


def chosen(plans: Plans, layout: str) -> Plan:
    """Return the best plan, or the best in the layout called so. Raises `BadRequest` that lists the layouts."""
    fits = [one for one in plans.plans if one.layout.name == layout] if layout else [plans.best]
    if not fits:
        names = sorted({one.layout.name for one in plans.plans})
        raise BadRequest(f"no plan has layout {layout!r}; those that work are {', '.join(names)}", param="layout")
    return fits[0]


def compare(plan: Plan, seen: Measured) -> list[Compared]:
    """Every figure that is both planned and measured. The cache may be a tenth off before it counts."""
    figures = [
        Compared("first token", "s", plan.speed.ttft, *band("ttft").around(plan.speed.ttft), seen.ttft),
        Compared("between tokens", "s", plan.speed.itl, *band("itl").around(plan.speed.itl), seen.itl),
        Compared("throughput", "tokens/s", plan.output, *band("throughput").around(plan.output), seen.rate),
    ]
    held = cache_tokens(plan)
    if seen.cache_tokens and held:
        figures.insert(0, Compared("KV cache", "tokens", held, 0.9 * held, 1.1 * held, seen.cache_tokens))
    if seen.replicas:
        figures.insert(0, Compared("replicas", "copies", plan.copies, plan.copies, plan.copies, seen.replicas))
    return figures


def cache_tokens(plan: Plan) -> float:
    """Tokens that the caches of all copies hold; 0 where only states and windows are kept."""
    held, layout = plan.memory, plan.layout
    return held.cache / held.per_token * layout.dp * plan.copies if held.per_token else 0.0


def _show(name: str, plan: Plan, seen: Measured, figures: list[Compared], *, as_json: bool) -> None:
    off = [one for one in figures if one.verdict != "as planned"]
    if as_json:
        rows: list[dict[str, Any]] = [{**asdict(one), "verdict": one.verdict} for one in figures]
        print_json(
            {"model": name, "layout": plan.layout.name, "copies": plan.copies, "load": asdict(seen), "figures": rows}
        )
    else:
        typer.echo(
            f"{clean(name)}: {seen.answers} answers in {seen.seconds:.0f} s, {seen.users:.1f} at once, "
            f"{seen.input:.0f} tokens in and {seen.output:.0f} out; plan: {plan.copies} x {plan.layout.name}\n"
        )
        table(("figure", "planned", "range", "measured", "verdict"), map(_row, figures), empty="")
        typer.echo(f"\n{'off: ' + ', '.join(one.name for one in off) if off else 'all as planned'}")
    if off:
        raise typer.Exit(_OFF)


def _row(one: Compared) -> tuple[str, ...]:
    low, high = f"{one.low:,.3g}", f"{one.high:,.3g}"
    return f"{one.name} ({one.unit})", f"{one.planned:,.3g}", f"{low}-{high}", f"{one.measured:,.3g}", one.verdict

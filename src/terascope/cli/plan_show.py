"""Plans as tables."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from terascope.cli.show import clean, print_json, table
from terascope.core.errors import BadRequest
from terascope.planner import Need, Plans, gpus, library, published, systems
from terascope.planner.emit import emit_files
from terascope.planner.memory import GIB
from terascope.planner.report import need_report, plans_report

_COLUMNS = (
    "", "layout", "weights", "KV", "copies", "weights GiB", "KV GiB", "fits", "at once", "first token",
    "between tokens", "tokens/s", "per GPU", "USD/M", "kWh/M",
)  # fmt: skip
_FIT_COLUMNS = ("GPU", "nodes", "GPUs", "layout", "weights", "tokens/s", "first token", "between tokens", "why not")
_COMPARED = ("model", "cluster", "layout", "weights", "fits", "at once", "first token", "between tokens", "tokens/s",
             "per GPU", "USD/M", "kWh/M")  # fmt: skip


def plans(found: Plans, price: float, pue: float, top: int, *, as_json: bool) -> None:
    """Print what a search found: the best `top`, in JSON all. Raises `BadRequest` where nothing works."""
    if as_json:
        print_json(plans_report(found, price=price, pue=pue))
        return
    if not found.plans:
        raise BadRequest(f"{found.failure()}. Refused: {'; '.join(_distinct(found, 3))}", param="on")
    report = plans_report(found, price=price, pue=pue, most=top)
    model, cluster = report["model"], report["cluster"]
    typer.echo(
        f"{clean(model['name'])}: {model['parameters'] / 1e9:,.1f} billion parameters, "
        f"{model['active_parameters'] / 1e9:.1f} active, {clean(model['native_format'])}; "
        f"{clean(cluster['name'])}: {cluster['gpus']} x {cluster['gpu']}\n"
    )
    table(_COLUMNS, (_row(number, one) for number, one in enumerate(report["plans"], 1)), empty="")
    _notes(report, found)


def compared(several: Sequence[Plans], price: float, pue: float, *, as_json: bool) -> None:
    """Print the best plan of each search."""
    reports = [plans_report(one, price=price, pue=pue, most=1) for one in several]
    if as_json:
        print_json(reports)
        return
    table(_COMPARED, (_compared(found, report) for found, report in zip(several, reports, strict=True)), empty="")


def fitted(found: Sequence[Need]) -> None:
    """Print what must be bought."""
    table(_FIT_COLUMNS, (_fitted(need_report(one)) for one in found), empty="no GPU is known")


def listed(what: str, *, as_json: bool) -> None:
    """Print the library's models, or GPUs and systems. Raises `BadRequest` for anything else."""
    if what not in _LISTS:
        raise BadRequest(f"--list shows {' or '.join(_LISTS)}, not {what!r}", param="list")
    columns, rows = _LISTS[what]
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows()])
    else:
        table(columns, rows(), empty="")


def _model_rows() -> Iterator[tuple[str, ...]]:
    for one, said in zip(library(), published(), strict=True):
        yield one.name, f"{one.parameters / 1e9:,.1f}", f"{one.active / 1e9:.1f}", one.native, said.figures


def _system_rows() -> Iterator[tuple[str, ...]]:
    """GPUs and systems with the source of their figures."""
    for one in gpus():
        yield one.name, "GPU", "", f"{one.memory / GIB:.0f} GiB", one.source
    for system in systems():
        yield system.name, system.gpu.name, f"{system.nodes} x {system.gpu.node}", system.scheduler, system.source


_LISTS: Mapping[str, tuple[Sequence[str], Callable[[], Iterator[tuple[str, ...]]]]] = {
    "models": (("model", "parameters_1e9", "active_1e9", "format", "published"), _model_rows),
    "systems": (("name", "kind", "nodes", "memory", "source"), _system_rows),
}


def files(found: Plans, target: str, rank: int) -> Mapping[str, str]:
    """The launch files of the plan of that rank. Raises `BadRequest` where there is none."""
    if rank > len(found.plans) and found.plans:
        raise BadRequest(f"there are {len(found.plans)} plans, not {rank}", param="rank")
    return emit_files(found, found.plans[rank - 1] if found.plans else found.best, target)


def written(texts: Mapping[str, str], into: Path | None) -> None:
    """Write launch files into a directory, which is made, or print them."""
    for name, text in texts.items():
        if into is None:
            typer.echo(f"# --- {name} ---\n{text}")
            continue
        into.mkdir(parents=True, exist_ok=True)
        (into / name).write_text(text, encoding="utf-8")
        typer.echo(f"wrote {into / name}", err=True)


def _row(number: int, one: dict[str, Any]) -> tuple[str, ...]:
    held = one["memory_per_gpu"]
    return (
        f"{number}{'' if one['meets'] else ' !'}",
        one["layout"],
        one["weights"],
        one["kv"],
        str(one["copies"]),
        f"{held['weights'] / GIB:.1f}",
        f"{held['kv_cache'] / GIB:.1f}",
        f"{one['concurrency']:,}",
        f"{one['at_once']:,}",
        *_speeds(one),
        _money(one["usd_per_million_output"]),
        f"{one['kwh_per_million_output']:.2f}",
    )


def _speeds(one: dict[str, Any]) -> tuple[str, str, str, str]:
    first, between, rate = one["ttft_s"], one["itl_s"], one["output_tokens_per_s"]
    return (
        f"{first['predicted']:.2f} s ({first['low']:.2f}-{first['high']:.2f})",
        f"{between['predicted'] * 1e3:.0f} ms ({between['low'] * 1e3:.0f}-{between['high'] * 1e3:.0f})",
        f"{rate['predicted']:,.0f} ({rate['low']:,.0f}-{rate['high']:,.0f})",
        f"{one['output_tokens_per_s_per_gpu']:,.0f}",
    )


def _compared(found: Plans, report: dict[str, Any]) -> tuple[str, ...]:
    head = (found.shapes.name, found.cluster.name)
    if not report["plans"]:
        return (*head, found.failure(), *[""] * (len(_COMPARED) - 3))
    one = report["plans"][0]
    return (
        *head, f"{one['copies']} x {one['layout']}", one["weights"], f"{one['concurrency']:,}", f"{one['at_once']:,}",
        *_speeds(one), _money(one["usd_per_million_output"]), f"{one['kwh_per_million_output']:.2f}",
    )  # fmt: skip


def _fitted(one: dict[str, Any]) -> tuple[str, ...]:
    if not one["nodes"]:
        return (one["gpu"], *[""] * 7, one["why_not"])
    return (
        one["gpu"], str(one["nodes"]), str(one["gpus"]), one["layout"], one["weights"],
        f"{one['output_tokens_per_s']:,.0f}", f"{one['ttft_s']:.2f} s", f"{one['itl_s'] * 1e3:.0f} ms", "",
    )  # fmt: skip


def _money(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _notes(report: dict[str, Any], found: Plans) -> None:
    for number, one in enumerate(report["plans"], 1):
        if not one["meets"]:
            typer.echo(f"{number} !: {one['why_not']}")
    _best_memory(report["plans"][0])
    for divided in report["disaggregated"]["plans"][:1]:
        typer.echo(
            f"prompts and answers apart (--disaggregated): {divided['name']}: "
            f"{divided['output_tokens_per_s']:,.0f} tokens/s, {divided['at_once']:,.0f} at once, "
            f"{divided['ttft_s']:.2f} s and {divided['itl_s'] * 1e3:.0f} ms"
            f"{'' if divided['meets'] else '; ' + divided['why_not']}"
        )
    units = report["plans"][0]["service_units_per_million"]
    typer.echo(f"a million tokens: {units['prompt']:,} service units of prompts, {units['output']:,} of answers")
    typer.echo(f"\n{len(found.plans)} layouts work, {len(found.rejected)} do not:")
    for why in _distinct(found, 6):
        typer.echo(f"- {why}")
    for caution in report["cautions"]:
        typer.echo(f"caution: {caution}")


def _best_memory(one: dict[str, Any]) -> None:
    parts = ", ".join(f"{name.replace('_', ' ')} {held / GIB:.1f}" for name, held in one["memory_per_gpu"].items())
    typer.echo(f"\nGiB of a GPU in 1: {parts}; the longest sequence: {one['longest_context']:,} tokens")


def _distinct(found: Plans, most: int) -> list[str]:
    """One refusal for each kind of reason, named by its layout."""
    return list(_by_kind(found))[:most]


def _by_kind(found: Plans) -> Iterator[str]:
    seen: set[str] = set()
    for one in found.rejected:
        kind = "".join(letter for letter in one.reason if not letter.isdigit())
        if kind not in seen:
            seen.add(kind)
            yield f"{one.layout.name} {one.layout.weights.name}: {one.reason}"

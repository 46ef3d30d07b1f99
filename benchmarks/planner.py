"""How well the planner predicts: published measurements, AIConfigurator beside it, placements, and the search's time.

    make bench NAME=planner                        # with the constants that ship
    make bench NAME=planner ARGS=--calibrate       # finds the constants anew, minutes; writes data/constants.yaml

- `median_error`, `p90_error`: absolute relative error of tokens/s over the published rows, none of which is used to
  find a constant; `ARGS="--rows FILE"` judges other rows with the same columns.
- `vs_aiconfigurator`: the median error of the time between tokens over AIConfigurator's, on rows that both predict and
  that are kept out of the calibration.
- `working_right`: of placements that run in public, those found to fit. `failing_right`: of those that fail in public
  or whose weights alone exceed the memory, those refused in every layout. `sourced_right` is that of the first kind,
  each with its address in failing.csv: threads of users, and stated minimums. Of those in vLLM's recipes
  every placement is in it whose memory holds the weights and is below the minimum, unless it runs in public.
- `search_64_s`, `search_4096_s`: seconds for the whole search for Kimi-K2 on 64 and 4,096 H200, two KV formats.
"""

import argparse
import csv
import re
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import yaml
from harness import planner_fit, planner_rows, processes, report
from harness.planner_rows import DATA, Measured
from harness.report import Target

from terascope.planner import (
    Architecture,
    Cluster,
    Layout,
    Load,
    Wish,
    find_gpu,
    find_model,
    make_load,
    parse_cluster,
    search,
)
from terascope.planner.constants import Constants, constants
from terascope.planner.engines import format_refusal
from terascope.planner.layout import refusal
from terascope.planner.memory import memory
from terascope.planner.precision import Format, format_named
from terascope.planner.validation import check, published_rows

SHIPPED = Path(__file__).resolve().parents[1] / "src/terascope/planner/data/constants.yaml"
TARGETS = [
    Target("median_error", "<=", 0.15),
    Target("vs_aiconfigurator", "<", 0.8),
    Target("working_right", ">=", 0.98),
    Target("failing_right", ">=", 0.95),
    Target("search_64_s", "<", 2),
    Target("search_4096_s", "<", 20),
]
NODES = (1, 2, 4, 8, 16)
ROUNDS = 3


def published(rows_of: Path | None) -> dict[str, float]:
    """Errors over the published rows."""
    checked, left = check(published_rows(rows_of))
    errors = sorted(abs(one.error) for one in checked)
    rows = [(one.row["id"], one.row["phase"], one.measured, one.predicted, f"{one.error:+.0%}") for one in checked]
    print(report.table(["published row", "phase", "measured", "predicted", "error"], rows))
    for one in left:
        print(f"not predicted: {one}")
    return {
        "median_error": statistics.median(errors),
        "p90_error": errors[int(0.9 * len(errors))],
        "mean_error": statistics.fmean(errors),
        "within_30": sum(one <= 0.3 for one in errors) / len(errors),
        "published_rows": len(errors),
    }


def against_peer() -> dict[str, float]:
    """Errors of both on the rows that both predict."""
    rows, its = planner_rows.predictable(planner_rows.peer_rows()), constants()
    ours = [planner_rows.itl(one, its) / one.itl for one in rows]
    theirs = [one.peer_itl / one.itl for one in rows]
    mine, peer = planner_fit.median_error(ours), planner_fit.median_error(theirs)
    kinds = [
        ("all", rows),
        ("aggregated", [r for r in rows if r.aggregated]),
        ("apart", [r for r in rows if not r.aggregated]),
    ]
    print(report.table(["rows", "n", "ours", "aiconfigurator"], (_both(name, some, its) for name, some in kinds)))
    return {
        "vs_aiconfigurator": mine / peer,
        "ours_median": mine,
        "aiconfigurator_median": peer,
        "peer_rows": len(rows),
    }


def _both(name: str, rows: Sequence[Measured], its: Constants) -> tuple[object, ...]:
    ours = planner_fit.median_error([planner_rows.itl(one, its) / one.itl for one in rows])
    return name, len(rows), f"{ours:.1%}", f"{planner_fit.median_error([one.peer_itl / one.itl for one in rows]):.1%}"


def placements() -> dict[str, float]:
    """How many placements are judged as they turned out."""
    with (DATA / "working.csv").open(encoding="utf-8") as file:
        working = list(csv.DictReader(file))
    wrong = [row for row in working if not _works(row)]
    for row in wrong:
        print(f"refused but works: {row['model']} on {row['gpu']}, tp {row['tp']} ep {row['ep']} ({row['entry']})")
    failing, sourced = list(_failing()), len(list(_sourced()))
    accepted = [one for one in failing if _fits_somehow(*one)]
    for model, cluster, weights in accepted:
        print(f"accepted but fails: {model.name} {weights} on {cluster.name}")
    return {
        "working_right": 1 - len(wrong) / len(working),
        "failing_right": 1 - len(accepted) / len(failing),
        "working": len(working),
        "failing": len(failing),
        "sourced": sourced,
        "sourced_right": 1 - sum(_fits_somehow(*one) for one in failing[:sourced]) / sourced,
    }


def _works(row: Mapping[str, str]) -> bool:
    shapes, weights = _named(row["model"], row["precision"])
    tp, ep, pp, cp = (int(row[key] or 1) for key in ("tp", "ep", "pp", "dcp"))
    group = max(tp, ep)  # some entries say the tensor size of attention, some that of the whole group
    if row["dp_attention"] == "True" or ep > tp:
        layout = Layout(1, pp, group, ep if group % ep == 0 else group, 1, weights, "fp8")
    else:
        layout = Layout(tp, pp, 1, ep if tp % ep == 0 else 1, cp, weights, "fp8")
    gpu = find_gpu(row["gpu"])
    cluster = Cluster(row["gpu"], -(-layout.gpus // gpu.node), gpu)
    length = int(row["isl"] or 1024) + int(row["osl"] or 1024)
    fits = memory(shapes, cluster, layout).sequences(length) > 0
    return fits and not format_refusal(cluster, layout) and not refusal(shapes, layout)


def _named(name: str, precision: str) -> tuple[Architecture, Format]:
    """The model that an entry means; checkpoints of many names have the shapes of a few."""
    short = re.sub(r"-(0528|NVFP4|MXFP4|MXFP8|FP4|FP8|fp4|V2|v2|Preview).*", "", name.rpartition("/")[2])
    shapes = find_model(short)
    if shapes.native == "fp8-fp4":
        return shapes, format_named(shapes.native)
    if precision == "fp4":
        precision = "mxfp4" if "MXFP4" in name or shapes.native == "mxfp4" else "nvfp4"
    return shapes, format_named(precision)


def _sourced() -> Iterator[tuple[Architecture, Cluster, str]]:
    """Placements that failed in public."""
    with (DATA / "failing.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield find_model(row["model"]), _failed_on(row), row["format"]


def _failing() -> Iterator[tuple[Architecture, Cluster, str]]:
    """Placements that failed in public, and those whose weights alone are more than the memory."""
    yield from _sourced()
    with (DATA / "weights.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for name in ("A100-40", "A100", "H100", "H200", "B200", "MI300X"):
                for count in NODES:
                    if float(row["gigabytes"]) * 1e9 > count * find_gpu(name).memory:
                        yield find_model(row["model"]), _of(name, count), row["format"]


def _failed_on(row: Mapping[str, str]) -> Cluster:
    """`gigabytes` is the memory of a GPU that the planner does not know; what else it has does not matter here."""
    if not row["gigabytes"]:
        return _of(row["gpu"], int(row["count"]))
    cluster = _of("A100", int(row["count"]))
    return replace(cluster, gpu=replace(cluster.gpu, name=row["gpu"], memory=float(row["gigabytes"]) * 1e9))


def _of(name: str, count: int) -> Cluster:
    gpu = find_gpu(name)
    nodes = -(-count // gpu.node)
    return parse_cluster(f"{nodes}x{count // nodes}x{name}")


def _fits_somehow(shapes: Architecture, cluster: Cluster, weights: str) -> bool:
    load = make_load(256, 128)
    return bool(search(shapes, cluster, load, Wish(quantization=weights)).plans)


def searches() -> dict[str, float]:
    """How long the whole search takes."""
    shapes, load = find_model("kimi-k2"), make_load(4000, 800, 400, "2s", "50ms")
    return {f"search_{gpus}_s": _fastest(shapes, parse_cluster(f"{gpus // 8}x8xH200"), load) for gpus in (64, 4096)}


def _fastest(shapes: Architecture, cluster: Cluster, load: Load) -> float:
    spent = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        search(shapes, cluster, load)
        spent.append(time.perf_counter() - start)
    return statistics.median(spent)


def calibrate() -> None:
    """Find the constants and the bands, and write them."""
    kept = planner_rows.held_out()
    everything = planner_rows.wheel_rows()
    rows = [one for one in everything if one.id not in kept]
    others = [one for one in everything if one.id in kept]
    found = planner_fit.fit(rows)
    its = found.constants
    print(f"{len(rows)} rows, {len(planner_rows.firsts(rows))} with a time to the first token; loss {found.loss:.4f}")
    print(f"on the rows found with: {_error(rows, its):.1%}; on {len(others)} kept apart: {_error(others, its):.1%}")
    by_gpu = planner_fit.left_out(rows, lambda one: one.system)
    by_family = planner_fit.left_out(rows, lambda one: one.family)
    for name, some in (("GPU", by_gpu), ("family", by_family)):
        print(
            report.table(
                [f"left out: {name}", "n", "median error"],
                ((k, len(v), f"{planner_fit.median_error(v):.1%}") for k, v in some.items()),
            )
        )
    write(its, rows, by_gpu, by_family)


def _error(rows: Sequence[Measured], its: Constants) -> float:
    return planner_fit.median_error([planner_rows.itl(one, its) / one.itl for one in rows])


def write(its: Constants, rows: Sequence[Measured], *parts: Mapping[str, Sequence[float]]) -> None:
    """Write constants, bands and held-out errors to the package's data."""
    ratios = sorted(1 / one for part in parts for some in part.values() for one in some)  # measured over predicted
    low, high = ratios[len(ratios) // 10], ratios[len(ratios) * 9 // 10]
    first = sorted(
        one.ttft / planner_rows.ttft(one, its) for one in rows if one.aggregated and one.ttft and one.engine == "vllm"
    )
    data = {
        "constants": {key: float(f"{value:.4g}") for key, value in asdict(its).items()},
        "bands": {
            "itl": _pair(low, high),
            "throughput": _pair(1 / high, 1 / low),
            "ttft": _pair(first[len(first) // 10], first[len(first) * 9 // 10]),
        },
        "left_out": {
            name: {key: float(f"{planner_fit.median_error(some):.3g}") for key, some in part.items()}
            for name, part in zip(("gpu", "family"), parts, strict=True)
        },
        "rows": len(rows),
    }
    SHIPPED.write_text(HEAD + yaml.safe_dump(data, sort_keys=False), encoding="utf-8")


HEAD = """\
# Written by `make bench NAME=planner ARGS=--calibrate` from the measurements inside aiconfigurator-core 0.12.0
# (systems/silicon_sample.csv); published rows were not used. `constants`: see planner/constants.py.
# `bands`: measured over predicted, a tenth of the rows below and a tenth above, with constants found without the row's
# GPU or family of models. `left_out`: median errors of the time between tokens, likewise.
"""


def _pair(low: float, high: float) -> list[float]:
    return [float(f"{low:.3g}"), float(f"{high:.3g}")]


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--calibrate", action="store_true", help="find the constants anew and write them")
    ask.add_argument("--rows", type=Path, help="published rows of another file")
    a = ask.parse_args()
    print(report.machine(), flush=True)
    if a.calibrate:
        calibrate()
        constants.cache_clear()
    figures = {**published(a.rows), **against_peer(), **placements(), **searches()}
    keys = [one.key for one in TARGETS] + ["p90_error"]
    detail = {key: value for key, value in figures.items() if key not in keys}
    report.finish("planner", {key: figures[key] for key in keys}, TARGETS, detail)


if __name__ == "__main__":
    processes.run("planner", main)

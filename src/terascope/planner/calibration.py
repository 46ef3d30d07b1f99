"""Constants found on one's own GPU: what `terascope calibrate` timed, as parts of what the data sheet promises."""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from terascope.core.errors import BadRequest
from terascope.planner.constants import Constants, constants
from terascope.planner.hardware import Cluster, Gpu, find_gpu, gpus
from terascope.planner.layout import make_layout
from terascope.planner.library import find_model
from terascope.planner.precision import FORMATS
from terascope.planner.roofline import Roofline, Work

FORMAT = 1
"""Of the file of timings that is understood; the torch engine's `calibrate` writes it."""
_FEWEST = 3
"""A constant is the median of at least so many timings; else it stays as it ships."""
_MOST = 1.1
"""More of a data sheet's figure than this is another GPU's."""
_CLOSE = 0.05
"""How far a card's memory may be from the data's: firmware keeps some back."""
_FEW_TOKENS, _MANY_TOKENS = 32, 2048
_LARGE = 64e6
"""Bytes whose reading takes longer than a launch."""
_LONG_PROMPT = 8192
_FULL = 512
"""Rows for each expert with which most tiles are full."""
_LARGEST_FILE = 20_000_000

Timing = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """One constant as it was found: the median of so many timings, and the range of all."""

    value: float
    low: float
    high: float
    timings: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """The constants of one kind of GPU, those that were found on it and the rest as they ship."""

    gpu: str
    card: str
    driver: str
    torch: str
    date: str
    found: Mapping[str, Found]
    constants: Constants

    @property
    def about(self) -> str:
        """Where the constants are from, in a line."""
        return (
            f"{', '.join(self.found)} found on {self.card}, driver {self.driver or 'unknown'}, torch {self.torch}, "
            f"{self.date[:10]}"
        )


def calibrate(timed: Mapping[str, Any], gpu: str = "") -> Calibration:
    """Return the constants that a file of timings shows.

    `gpu` names the GPU where its card's name does not say it. Raises `BadRequest` for what is no such file, for a card
    that the planner does not know, and for timings that are faster than the GPU can be.
    """
    try:
        about, timings = timed["about"], list(timed["timings"])
        if timed["format"] != FORMAT:
            raise BadRequest(
                f"the timings have format {timed['format']}, this Terascope reads {FORMAT}", param="timings"
            )
        if about["small"]:
            raise BadRequest(
                "timings of small shapes say nothing about a GPU's speed: leave --small out", param="timings"
            )
        its = find_gpu(gpu) if gpu else gpu_of(str(about["card"]), float(about["memory"]))
        found = _derive(timings, its)
        return Calibration(
            its.name, str(about["card"]), str(about["driver"]), str(about["torch"]), str(about["date"]), found,
            replace(constants(), **{name: one.value for name, one in found.items()}),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise BadRequest(f"this is no file that `calibrate` wrote: {error!r}", param="timings") from None


def gpu_of(card: str, memory: float) -> Gpu:
    """Return the GPU that a card with so many bytes is: its name is a word of the card's, its memory the nearest.

    Raises `BadRequest` that lists the names where none is.
    """
    words = set(card.upper().replace("-", " ").split())
    near = [one for one in gpus() if _family(one.name) in words and abs(one.memory - memory) <= _CLOSE * one.memory]
    if not near or words & {"PCIE", "NVL"}:
        raise BadRequest(
            f"{card} with {memory / 1e9:.1f}e9 bytes is no GPU that the planner knows; say with --gpu which of "
            f"{', '.join(one.name for one in gpus())} it counts as",
            param="gpu",
        )
    return min(near, key=lambda one: abs(one.memory - memory))


def _family(name: str) -> str:
    return name.upper().partition("-")[0]


def load_calibration(path: Path) -> Calibration:
    """Return what `stored` wrote to `path`. Raises `BadRequest` where it cannot be read or is something else."""
    held = read_timings(path)
    if "gpu" not in held:
        return calibrate(held)
    return calibrate(held, str(held["gpu"]))


def read_timings(path: Path) -> Mapping[str, Any]:
    """The file at `path`. Raises `BadRequest` where it cannot be read or is no JSON object."""
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise BadRequest(f"{path} is too large for a file of timings", param="timings")
        held = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadRequest(f"cannot read {path}: {error.strerror}", param="timings") from None
    except ValueError as error:
        raise BadRequest(f"{path} is no JSON: {error}", param="timings") from None
    if not isinstance(held, dict):
        raise BadRequest(f"{path} is no file that `calibrate` wrote", param="timings")
    return held


def stored(timed: Mapping[str, Any], found: Calibration) -> str:
    """The text of the file that is kept: every timing, the GPU, and the constants beside those that ship."""
    shipped = constants()
    table = {
        name: {
            "value": one.value,
            "low": one.low,
            "high": one.high,
            "timings": one.timings,
            "shipped": getattr(shipped, name),
        }
        for name, one in found.found.items()
    }
    return json.dumps({**timed, "gpu": found.gpu, "constants": table}, indent=1) + "\n"


@dataclass(frozen=True, slots=True)
class LayerCheck:
    """Seconds of a whole layer: as it was timed, as predicted with the constants found, and with those that ship."""

    model: str
    tokens: int
    context: int
    measured: float
    found: float
    shipped: float


def check_layers(timed: Mapping[str, Any], found: Calibration) -> Sequence[LayerCheck]:
    """Return every whole layer of a file of timings beside its prediction, in seconds: new tokens, weights in bf16."""
    return [_layer_check(one, found) for one in _of(timed["timings"], "layer")]


def _layer_check(one: Timing, found: Calibration) -> LayerCheck:
    model, shape = one["name"].removesuffix(" layer"), one["shape"]
    alone = Cluster(found.gpu, 1, find_gpu(found.gpu))
    work = Work(shape["tokens"], shape["context"], prompt=False, sequences=shape["batch"])
    plain = make_layout(weights=FORMATS["bf16"])
    ours, theirs = (
        Roofline(find_model(model), alone, plain, values).layer(work) for values in (found.constants, constants())
    )
    return LayerCheck(model, shape["tokens"], shape["context"], one["seconds"], ours, theirs)


def _derive(timings: Sequence[Timing], gpu: Gpu) -> Mapping[str, Found]:
    """Every constant that enough timings show, as parts of the figures of `gpu`."""
    samples = {
        "stream": [_read(one, gpu) for one in _of(timings, "products") if _is_small(one)],
        "stream_experts": [_read(one, gpu) for one in _of(timings, "experts") if _is_small(one)],
        "stream_cache": [_read(one, gpu) for one in _of(timings, "decode", "grouped") if one["read"] >= _LARGE],
        "multiply": [
            _computed(one, gpu)
            for one in _of(timings, "products")
            if one["shape"]["tokens"] >= _MANY_TOKENS and one["read"] >= _LARGE
        ],
        "multiply_experts": [_computed(one, gpu) for one in _of(timings, "experts") if _rows(one) >= _FULL],
        "attend": [_computed(one, gpu) for one in _of(timings, "prompt") if one["shape"]["length"] >= _LONG_PROMPT],
    }
    found = {name: _found(some) for name, some in samples.items() if len(some) >= _FEWEST}
    for name, one in found.items():
        if not 0 < one.value <= _MOST:
            raise BadRequest(
                f"{name} would be {one.value:.2f} of what {gpu.name} can do: name the GPU that it is with --gpu",
                param="gpu",
            )
    return found


def _of(timings: Sequence[Timing], part: str, name: str = "") -> Iterator[Timing]:
    return (one for one in timings if one["part"] == part and one["name"].startswith(name))


def _is_small(one: Timing) -> bool:
    """Whether reading the weights is what takes the time."""
    return bool(one["shape"]["tokens"] <= _FEW_TOKENS and one["read"] >= _LARGE)


def _rows(one: Timing) -> float:
    return float(one["shape"]["rows"] / one["shape"]["hit"])


def _read(one: Timing, gpu: Gpu) -> float:
    return float(one["read"] / one["seconds"] / gpu.bandwidth)


def _computed(one: Timing, gpu: Gpu) -> float:
    return float(one["operations"] / one["seconds"] / gpu.peaks[gpu.unit((one["format"], "bf16"))])


def _found(samples: Sequence[float]) -> Found:
    return Found(_short(statistics.median(samples)), _short(min(samples)), _short(max(samples)), len(samples))


def _short(value: float) -> float:
    return float(f"{value:.4g}")

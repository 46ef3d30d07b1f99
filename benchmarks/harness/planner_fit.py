"""Finds the planner's constants from measurements: coordinate descent from guesses, which hold where rows are few.

The loss is the mean absolute logarithm of predicted over measured time between tokens, 0.4 of the same for the time to
the first token of few, and a small pull towards the guesses.
"""

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from terascope.planner.constants import Constants

from .planner_rows import Measured, firsts, itl, ttft

GUESSES = Constants(
    stream=0.8, stream_experts=0.7, unpack=0.9, stream_cache=0.7, multiply=0.65, multiply_experts=0.5, pad=64,
    attend=0.5, attend_decode=0.6, traffic=2.5, layer_us=45, mixture_us=15, linear_us=10, index_us=20, step_us=1000,
    prompt_layer_us=100, prompt_step_us=3000, reduce_us=8, reduce=0.5, exchange_us=30, exchange=0.5, network_us=60,
    network=0.6, overlap=0.8, imbalance=1.25, imbalance_prompt=1.15, interference=1.0,
)  # fmt: skip
"""What data sheets, kernels' papers and a few dozen rows suggest; where nothing moves them they stay."""
FIXED = {"network_us", "network", "overlap", "imbalance_prompt", "exchange"}
"""The wheel has too few rows over a network to say anything of these."""
FRACTIONS = {
    "stream", "stream_experts", "unpack", "stream_cache", "multiply", "multiply_experts", "attend", "attend_decode",
    "reduce", "interference",
}  # fmt: skip
_FIRST_WEIGHT, _PULL, _ROUNDS, _STEP, _LEAST = 0.4, 0.02, 24, 0.3, 0.03
_SAMPLE = 900
_MOST_FRACTION = 0.98


@dataclass(frozen=True)
class Fit:
    """Constants, and the loss on the rows that they were found with."""

    constants: Constants
    loss: float


def fit(rows: Sequence[Measured], seed: int = 1, sample: int = _SAMPLE) -> Fit:
    """Return the constants for `rows`, of which `sample` are used; the same for the same rows."""
    chosen = list(rows)
    random.Random(seed).shuffle(chosen)
    between, first = chosen[:sample], firsts(chosen)[: sample // 2]
    best = Fit(GUESSES, _loss(between, first, GUESSES))
    step = _STEP
    for _ in range(_ROUNDS):
        better = _round(between, first, best, step)
        step = step if better.loss < best.loss else step / 2
        best = better
        if step < _LEAST:
            break
    return best


def _round(between: Sequence[Measured], first: Sequence[Measured], best: Fit, step: float) -> Fit:
    """Each constant a step up or down, where that is better."""
    for name in (one for one in asdict(GUESSES) if one not in FIXED):
        for factor in (math.exp(step), math.exp(-step)):
            value = getattr(best.constants, name) * factor
            if (name in FRACTIONS and value > _MOST_FRACTION) or (name == "imbalance" and value < 1):
                continue
            tried = replace(best.constants, **{name: value})
            loss = _loss(between, first, tried)
            if loss < best.loss - 1e-5:
                best = Fit(tried, loss)
                break
    return best


def _loss(between: Sequence[Measured], first: Sequence[Measured], values: Constants) -> float:
    spent = statistics.fmean(abs(math.log(itl(one, values) / one.itl)) for one in between)
    if first:
        spent += _FIRST_WEIGHT * statistics.fmean(abs(math.log(ttft(one, values) / one.ttft)) for one in first)
    guesses = asdict(GUESSES)
    return spent + _PULL * sum(math.log(value / guesses[name]) ** 2 for name, value in asdict(values).items())


def left_out(rows: Sequence[Measured], part: Callable[[Measured], str]) -> dict[str, list[float]]:
    """For each part: predicted over measured times between tokens, with constants found without that part."""
    found = {}
    for name in sorted({part(one) for one in rows}):
        values = fit([one for one in rows if part(one) != name], sample=_SAMPLE // 3).constants
        found[name] = [itl(one, values) / one.itl for one in rows if part(one) == name]
    return found


def median_error(ratios: Sequence[float]) -> float:
    """The median of the absolute relative errors."""
    return statistics.median(abs(one - 1) for one in ratios)

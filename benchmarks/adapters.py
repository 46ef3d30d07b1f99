"""What LoRA adapters cost in the torch worker: none, one, and eight different ones in one running batch.

    make bench NAME=adapters

SmolLM2-135M-Instruct on two threads, in this process, without HTTP: decode steps of 8 rows, each with 160 tokens behind
it. Adapters of rank 8 on all linear layers of every block, random. Steps of each kind are interleaved, medians of many.

- `none`, `one`, `mixed`: tokens/s of 8 rows without adapters, all with the same one, and each with another one;
  `half`: four of the rows with one of their own, four with none.
- `mixed_adapters`: `mixed` over `one`, the smaller of both number types. `one_adapter`: `one` over `none`.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from engine_cpu import THREADS, checkpoint
from harness import install, processes, report
from harness.report import Target

from terascope.engines.torch.cache import blocks_for
from terascope.engines.torch.layout import Span
from terascope.engines.torch.lora.read import Base, base_of
from terascope.engines.torch.lora.terms import Adapted
from terascope.engines.torch.lora.weights import Adapter, Pair
from terascope.engines.torch.model import load_causal
from terascope.engines.torch.packed import PackedModel, Step
from terascope.engines.torch.settings import WorkerSettings

DTYPES, ROWS, RANK, BEHIND, TIMES = ("float32", "bfloat16"), 8, 8, 160, 60
LEAST = Target("mixed_adapters", ">=", 0.8)


def adapter(base: Base, seed: int) -> Adapter:
    """A random adapter of all layers of `base`."""
    generator = torch.Generator().manual_seed(seed)

    def matrix(width: int) -> torch.Tensor:
        return (torch.randn(RANK, width, generator=generator) * 0.02).to(base.dtype)

    pairs = {name: Pair(matrix(width), matrix(out)) for name, (width, out) in base.modules.items()}
    return Adapter(f"adapter {seed}", str(seed), pairs)


def step(spans: Sequence[Span], own: Sequence[Adapter | None]) -> Step:
    """A token of each row, with its adapter."""
    adapted = [Adapted(one, at, at + 1) for at, one in enumerate(own) if one is not None]
    return Step([5] * len(spans), spans, range(len(spans)), adapted=adapted)


def tokens_s(packed: PackedModel, times: int) -> dict[str, float]:
    """Tokens/s of each kind of step."""
    base = base_of(packed, RANK)
    if base is None:
        raise processes.Failed("the model takes no adapters")
    eight = [adapter(base, seed) for seed in range(ROWS)]
    kinds: dict[str, list[Adapter | None]] = {
        "none": [None] * ROWS,
        "one": [eight[0]] * ROWS,
        "mixed": list(eight),
        "half": [one if at % 2 else None for at, one in enumerate(eight)],
    }
    spans = [Span(BEHIND, 1, packed.pool.take(blocks_for(BEHIND + 1))) for _ in range(ROWS)]
    taken: dict[str, list[float]] = {kind: [] for kind in kinds}
    for own in kinds.values():
        packed.run(step(spans, own))
    for _, kind in report.interleaved(times // 10, list(kinds)):
        one = step(spans, kinds[kind])
        packed.run(one)  # in runs of several, as in a batch whose rows stay for a while
        for _ in range(10):
            start = time.perf_counter()
            packed.run(one)
            taken[kind].append(time.perf_counter() - start)
    return {kind: ROWS / statistics.median(seconds) for kind, seconds in taken.items()}


def measured(dtypes: Sequence[str], times: int) -> dict[str, dict[str, float]]:
    """Tokens/s of each kind of step, by number type."""
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as scratch:
        install.say("writing the checkpoint")
        directory = checkpoint(Path(scratch))
        settings = {dtype: WorkerSettings(directory, "bench", dtype=dtype, cache_tokens=20_000) for dtype in dtypes}
        return {dtype: tokens_s(load_causal(one, install.say).packed, times) for dtype, one in settings.items()}


def table(found: Mapping[str, Mapping[str, float]]) -> str:
    """`found` to read."""
    kinds = list(next(iter(found.values())))
    return report.table(["dtype", *kinds], [[dtype, *(one[kind] for kind in kinds)] for dtype, one in found.items()])


def mixed_over_one(found: Mapping[str, Mapping[str, float]]) -> float:
    """The smallest ratio of a batch with eight adapters to one with the same adapter everywhere."""
    return min(one["mixed"] / one["one"] for one in found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtypes", default=",".join(DTYPES))
    parser.add_argument("--times", type=int, default=TIMES, help="steps of each kind")
    options = parser.parse_args()
    print(report.machine(), flush=True)
    found = measured(options.dtypes.split(","), options.times)
    print(table(found))
    result: dict[str, float | None] = {
        "mixed_adapters": mixed_over_one(found),
        "one_adapter": min(one["one"] / one["none"] for one in found.values()),
    }
    report.finish("adapters", result, [LEAST], found)


if __name__ == "__main__":
    processes.run("adapters", main)

"""What a decode step of the torch worker is made of, and how far it is from the memory's bandwidth.

    make bench NAME=step_parts

SmolLM2-135M-Instruct in bfloat16 on two threads, in this process, without HTTP: steps of 1, 8 and 32 rows, each with
160 tokens behind it. A step must read every weight once, so no step can be shorter than bytes over bandwidth.

- `limit_ms`: bytes of the weights over the bandwidth at which two threads sum up an array of 1 GiB (`read_gb_s`).
- `step_N_ms`: a step of N rows, median of many; `limit_share_N`: the limit's share of it.
- beside them the parts, from PyTorch's profiler, which makes a step somewhat slower: `linear_N_ms` (linear layers),
  `attention_N_ms` (attention and the KV cache's reads and writes), `small_N_ms` (norms, rotary embedding, activations,
  additions: all other operations), and `between_N_ms`, the rest: Python and PyTorch between the operations.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from engine_cpu import BURSTS, DTYPE, THREADS, checkpoint
from harness import install, processes, report
from torch.profiler import ProfilerActivity, profile

from terascope.engines.torch.cache import blocks_for
from terascope.engines.torch.layout import Span
from terascope.engines.torch.model import load_causal
from terascope.engines.torch.packed import PackedModel, Step
from terascope.engines.torch.settings import WorkerSettings

BEHIND, TIMES, PROFILED = 160, 40, 10
_LINEAR = ("mkldnn::_linear_pointwise", "aten::mm", "aten::addmm", "aten::linear")
_ATTENTION = ("attention", "aten::bmm", "aten::index_select", "aten::index_copy_", "aten::_softmax", "aten::baddbmm")


def read_gb_s() -> float:
    """How fast memory is read, in GB/s: the best of several sums over 1 GiB."""
    data = torch.ones(1 << 28)
    return data.nbytes / min(timed(lambda: data.sum()) for _ in range(8)) / 1e9


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def parts(packed: PackedModel, rows: int) -> dict[str, float]:
    """Milliseconds of a step of `rows` rows, and of its parts."""
    blocks = [packed.pool.take(blocks_for(BEHIND + 1)) for _ in range(rows)]
    step = Step([5] * rows, [Span(BEHIND, 1, own) for own in blocks], range(rows))
    whole = statistics.median(timed(lambda: packed.run(step)) for _ in range(TIMES)) * 1e3
    with profile(activities=[ProfilerActivity.CPU]) as found:
        profiled = timed(lambda: [packed.run(step) for _ in range(PROFILED)]) * 1e3 / PROFILED
    for own in blocks:
        packed.pool.give_back(own)
    taken = {event.key: event.self_cpu_time_total / 1e3 / PROFILED for event in found.key_averages()}
    linear = sum(ms for name, ms in taken.items() if name in _LINEAR)
    attention = sum(ms for name, ms in taken.items() if any(part in name for part in _ATTENTION))
    small = sum(taken.values()) - linear - attention
    return {
        f"step_{rows}_ms": whole,
        f"linear_{rows}_ms": linear,
        f"attention_{rows}_ms": attention,
        f"small_{rows}_ms": small,
        f"between_{rows}_ms": profiled - linear - attention - small,
    }


def main() -> None:
    print(report.machine(), flush=True)
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as scratch:
        install.say("writing the checkpoint")
        settings = WorkerSettings(checkpoint(Path(scratch)), "bench", dtype=DTYPE, cache_tokens=20_000)
        packed = load_causal(settings, install.say).packed
        weights = sum(file.stat().st_size for file in settings.model_dir.glob("*.safetensors"))
    speed = read_gb_s()
    taken = {"read_gb_s": speed, "limit_ms": weights / speed / 1e6}
    for rows in BURSTS:
        taken |= parts(packed, rows)
        taken[f"limit_share_{rows}"] = taken["limit_ms"] / taken[f"step_{rows}_ms"]
    print(report.table(["figure", "measured"], [[name, value] for name, value in taken.items()]))
    report.finish("step_parts", dict(taken), [], {})


if __name__ == "__main__":
    processes.run("step_parts", main)

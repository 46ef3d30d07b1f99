"""What it costs that the torch worker keeps keys and values in blocks, and what it saves.

    make bench NAME=kv_layout

One layer's attention of SmolLM2-135M (9 query heads, 3 key heads of 64) in a decode step of several rows, on two
threads, the new keys and values written first. Microseconds a layer; a measurement goes through the layers of the model
in turn, as a step does, so that none finds its keys and values in the processor's cache because it just had them.

- `blocks`: as the worker does it, by its own code: blocks of 16 tokens, gathered before they are multiplied.
- `slots`: a place of fixed length for each row, seen where it is, nothing gathered; the same arithmetic. At its best:
  rows that are computed together stand beside each other.
- `padded`: slots as a static cache is computed, all rows at once over the whole length of the slots (4,096).

`mixed` rows have 64 to 4,096 tokens, evenly spread. `vs_slots` is `blocks` over `slots`. `step_share`: how much of a
whole decode step of the model is what blocks cost more than slots, in its 30 layers together.

`blocks_mib`, `slots_mib`: memory that the rows need in all layers; slots are as long as a row may get (4,096).
`copy_ms` and `share_ms`: a row begins with 1,024 tokens that another one has: copied into its slot in all layers, or
its blocks found by their digests and shared.
"""

import argparse
from collections.abc import Mapping

from harness import install, processes, report

from terascope.core import environment

DTYPES = ("bfloat16", "float32")
ROWS, LENGTHS = (1, 8, 32), ("160", "1024", "4096", "mixed")
THREADS = 2


def result(taken: Mapping[str, Mapping[str, float]]) -> dict[str, float | None]:
    """The benchmark's keys: what the gather costs, by type, rows and length, and what a shared prefix costs."""
    found: dict[str, float | None] = {}
    for case, figures in taken.items():
        for key in ("vs_slots", "step_share", "copy_ms", "share_ms"):
            if key in figures:
                found[f"{key}_{case}"] = figures[key]
    return found


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--dtypes", default=",".join(DTYPES), help="which to measure, by comma")
    ask.add_argument("--rows", default=",".join(map(str, ROWS)), help="rows in a step, by comma")
    ask.add_argument("--lengths", default=",".join(LENGTHS), help="tokens behind each row, or `mixed`, by comma")
    a = ask.parse_args()
    environment.prefer("OMP_WAIT_POLICY", "passive")  # as the worker waits; read when torch is imported
    environment.prefer("GOMP_SPINCOUNT", "10000")
    from harness import layouts

    print(report.machine(), flush=True)
    taken: dict[str, dict[str, float]] = {}
    for dtype in a.dtypes.split(","):
        bench = layouts.Bench(dtype, THREADS)
        for rows in map(int, a.rows.split(",")):
            for length in a.lengths.split(","):
                if length != "mixed" or rows > 1:
                    install.say(f"{dtype}, {rows} rows, {length}")
                    taken[f"{dtype}_{rows}_{length}"] = bench.case(rows, length)
        taken[f"{dtype}_prefix"] = bench.prefix()
    columns = ["blocks_us", "slots_us", "padded_us", "vs_slots", "step_ms", "step_share", "blocks_mib", "slots_mib"]
    rows_ = [[case, *(own.get(column) for column in columns)] for case, own in taken.items() if "prefix" not in case]
    print(f"\n{report.table(['case', *columns], rows_)}\n")
    columns = ["copy_ms", "share_ms"]
    print(report.table(["case", *columns], [[c, *(o[f] for f in columns)] for c, o in taken.items() if "prefix" in c]))
    report.finish("kv_layout", result(taken), [], taken)


if __name__ == "__main__":
    processes.run("kv_layout", main)

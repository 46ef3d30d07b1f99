"""How fast the gateway starts, what it weighs, and how many streams it holds.

    make bench NAME=startup

- `ready_s`: from starting the process to /ready answering 200, without engines, in a new data directory: keys and
  database are made. `ready_again_s`: the same in a data directory that was used before.
- `rss_mb`: memory of all its processes when ready.
- `streams`: streams held at once through the gateway with a mock engine, each with an event every 250 ms for 30 s.
  `errors`: those that were refused, cut, incomplete, or silent for over 20 s. `silence_max_ms`: the longest silence.

LiteLLM's proxy and vllm-router are started, and given the same streams, beside it.
"""

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from harness import install, processes, report, systems
from harness.report import Target
from harness.systems import Place

STREAMS, TOKENS, GAP_MS = 1000, 120, 250.0
FIGURES = [
    "ready_s",
    "ready_again_s",
    "rss_mb",
    "streams",
    "errors",
    "silence_max_ms",
    "delay_p99_ms",
    "rss_streams_mb",
]
TARGETS = [
    Target("ready_s", "<", 2),
    Target("ready_again_s", "<", 2),
    Target("streams", ">=", STREAMS),
    Target("errors", "=", 0),
]


def start(name: str) -> dict[str, float]:
    """Start system `name` twice in one directory, without engines."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Place(None, Path(scratch))
        with systems.SYSTEMS[name](place) as server:
            assert server.process
            taken = {"ready_s": server.ready_s, "rss_mb": server.process.rss_mb()}
        with systems.SYSTEMS[name](place) as server:
            return taken | {"ready_again_s": server.ready_s}


def hold(name: str) -> dict[str, float]:
    """Hold streams through system `name`, pinned to a core of its own."""
    gateway_core, other_cores = processes.split_cores()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engine = stack.enter_context(systems.running_engine(scratch, other_cores))
        server = stack.enter_context(systems.SYSTEMS[name](Place(engine.server, scratch, gateway_core)))
        assert server.process
        engine.set(tokens=TOKENS, gap_ms=GAP_MS, stamp=True)
        peak = stack.enter_context(processes.peak_rss(server.process))
        options = ["--concurrency", STREAMS, "--answers", 1, "--tokens", TOKENS]
        streams = systems.load(server, *options, cores=other_cores, limit=300)
    taken = {key: streams[key] for key in ("silence_max_ms", "delay_p99_ms") if key in streams}
    return taken | {"streams": streams["streams_at_once"], "errors": streams["bad"], "rss_streams_mb": peak.mb}


def take(names: Sequence[str], starts: int, rounds: int) -> dict[str, dict[str, float]]:
    """Medians of each system; of `errors` the sum and of `streams` the least of all rounds."""
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number, name in report.interleaved(starts, names):
        install.say(f"start {number + 1} of {starts}: {name}")
        taken[name].append(start(name))
    for number, name in report.interleaved(rounds, names):
        install.say(f"streams, round {number + 1} of {rounds}: {name}")
        taken[name].append(hold(name))
    return {name: report.medians(figures) | _worst(figures) for name, figures in taken.items()}


def _worst(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    held = [one for one in rounds if "streams" in one]
    return {"streams": min(one["streams"] for one in held), "errors": sum(one["errors"] for one in held)}


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--starts", type=int, default=5)
    ask.add_argument("--rounds", type=int, default=3, help="how often the streams are held")
    ask.add_argument("--systems", default="terascope,litellm,vllm-router", help="which to measure, by comma")
    a = ask.parse_args()
    names = a.systems.split(",")
    systems.prepare(names)
    print(report.machine(), flush=True)
    taken = take(names, a.starts, a.rounds)
    rows = [[name, *(own.get(one) for one in FIGURES)] for name, own in taken.items()]
    print(f"\n{report.table(['system', *FIGURES], rows)}")
    own = taken.get("terascope", {})
    report.finish("startup", {one: own.get(one) for one in FIGURES}, TARGETS, taken)


if __name__ == "__main__":
    processes.run("startup", main)

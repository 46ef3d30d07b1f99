"""Engines that are given the same files and the same bursts: gateway and torch worker, and transformers' generate."""

import json
import os
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import install, processes, report, systems, tokens
from .processes import Process
from .report import ratio
from .systems import Place, Server
from .tokens import Prompt

HERE = Path(__file__).parent
MODEL = "bench"


@dataclass(frozen=True)
class Work:
    """What every engine is asked: prompts of `prompt` tokens out of `words`, answers of `tokens`, in `bursts`.

    `bursts` says how many of each size a round has. `threads` 0 and `device` empty: the engine chooses.
    """

    prompt: int
    tokens: int
    bursts: Mapping[int, int]
    words: range
    dtype: str = "bfloat16"
    threads: int = 0
    device: str = ""
    context_length: int = 0

    def prompts(self, seed: int, size: int) -> list[Prompt]:
        """`size` prompts, the same for the same `seed`."""
        return tokens.prompts(seed, size, self.prompt, self.words)


Burst = Callable[[Sequence[Prompt]], dict[str, float]]
System = Callable[[Place, Path, Work], AbstractContextManager[tuple[Server, Burst]]]
Rounds = dict[str, list[dict[str, float]]]


@contextmanager
def terascope(place: Place, checkpoint: Path, work: Work) -> Iterator[tuple[Server, Burst]]:
    """Gateway and torch worker."""
    deployment = {
        "model": MODEL, "engine": "torch", "dtype": work.dtype, "threads": work.threads, "device": work.device,
        "max_batch": max(work.bursts), "context_length": work.context_length,
    }  # fmt: skip
    config = {"models": {MODEL: {"source": f"path:{checkpoint}"}}, "deployments": [deployment]}
    with systems.terascope_with(config, place) as server:
        yield server, lambda asked: tokens.burst(server, MODEL, asked, work.tokens)


@contextmanager
def generate(place: Place, checkpoint: Path, work: Work) -> Iterator[tuple[Server, Burst]]:
    """Transformers' `generate` in a process of its own."""
    port = processes.free_port()
    url = f"http://127.0.0.1:{port}"
    options = ["--port", str(port), "--threads", str(work.threads), "--dtype", work.dtype]
    command: list[str | Path] = [
        sys.executable,
        HERE / "generate.py",
        checkpoint,
        *options,
        "--device",
        work.device or "cpu",
    ]
    with Process(command, log=place.directory / "generate.log") as process:
        ready_s = process.wait_until(processes.answers(url), timeout=300)

        def burst(asked: Sequence[Prompt]) -> dict[str, float]:
            body = json.dumps({"prompts": asked, "tokens": work.tokens}).encode()
            with urllib.request.urlopen(url, body, timeout=300) as reply:
                found: dict[str, float] = json.load(reply)
            return found

        yield Server(url, process=process, ready_s=ready_s), burst


def measure(burst: Burst, work: Work, seed: int) -> dict[str, float]:
    """All bursts of one engine in one round; the prompts depend on `seed` alone."""
    taken: dict[str, float] = {}
    for number, (size, times) in enumerate(work.bursts.items()):
        burst(work.prompts(seed + 1000 * number + 999, size))  # warms up
        found = [burst(work.prompts(seed + 1000 * number + n, size)) for n in range(times)]
        taken[f"tokens_{size}"] = sum(one["made"] for one in found) / sum(one["seconds"] for one in found)
        taken[f"first_{size}_ms"] = sum(one["first"] for one in found) / times * 1e3
    return taken


def one(system: System, checkpoint: Path, work: Work, seed: int) -> dict[str, float]:
    """Start `system`, measure it, and stop it."""
    with tempfile.TemporaryDirectory() as scratch:
        with system(Place(None, Path(scratch)), checkpoint, work) as (server, burst):
            assert server.process
            with processes.peak_rss(server.process) as peak:
                taken = measure(burst, work, seed)
        return taken | {"ready_s": server.ready_s, "rss_mb": peak.mb}


def take(measured: Mapping[str, System], checkpoint: Path, work: Work, rounds: int) -> Rounds:
    """All rounds of all engines, interleaved."""
    taken: Rounds = {name: [] for name in measured}
    for number, name in report.interleaved(rounds, list(measured)):
        install.say(f"round {number + 1} of {rounds}: {name} (load {os.getloadavg()[0]:.1f})")
        found = one(measured[name], checkpoint, work, 100_000 * (number + 1))
        install.say(", ".join(f"{key} {value:.4g}" for key, value in found.items()))
        taken[name].append(found)
    return taken


def ratios(middle: Mapping[str, Mapping[str, float]], peers: Sequence[str], work: Work) -> dict[str, float | None]:
    """`vs_PEER_N`: tokens/s of Terascope over the peer's, N at once."""
    ours = middle.get("terascope", {})
    return {
        f"vs_{peer}_{n}": ratio(ours.get(f"tokens_{n}"), middle.get(peer, {}).get(f"tokens_{n}"))
        for peer in peers
        for n in work.bursts
    }


def table(middle: Mapping[str, Mapping[str, float]], work: Work) -> str:
    """All figures of all engines."""
    sizes = work.bursts
    columns = [*(f"tokens_{n}" for n in sizes), *(f"first_{n}_ms" for n in sizes), "ready_s", "rss_mb"]
    rows = [[name, *(own.get(column) for column in columns)] for name, own in middle.items()]
    return report.table(["system", *columns], rows)

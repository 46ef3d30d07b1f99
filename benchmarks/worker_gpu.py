"""How fast the torch worker is on a GPU: through the gateway, against transformers' generate on the same GPU.

    make bench NAME=worker_gpu
    make bench NAME=worker_gpu ARGS="--model qwen3-0.6b --bursts 1,8"

A model of a published architecture with random weights in bfloat16 (harness/random_checkpoint.py), the same files for
both; prompts of 512 random tokens, new in every burst and the same for both, 128 tokens an answer, all of a burst asked
for at once and streamed. Every round starts each system afresh, warms it up, and sends bursts of 1, 8, 32 and 128.
Figures are medians over the rounds.

- `vs_generate_N`: tokens/s of gateway and worker together, N at once, over those of `generate` (static batch,
  in-process, without HTTP and text).
- beside them for each system `tokens_N` (tokens/s until the last answer is whole), `first_N_ms` (mean time to the first
  token), `ready_s` (start to ready; the worker's with its checks), `rss_mb` (main memory of all its processes).

Where there is no GPU, nothing is measured, and every key is null; `--device cpu --model tiny` shows that it runs.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from engine_cpu import WORDS, checkpoint
from harness import engines, install, processes, report
from harness.engines import System, Work
from harness.random_checkpoint import PRESETS
from harness.report import Target

PROMPT, TOKENS = 512, 128
BURSTS = {1: 3, 8: 3, 32: 2, 128: 2}  # how many of each size in a round
LARGE_GIB = 40  # memory of a GPU that the larger model wants
SYSTEMS: dict[str, System] = {"terascope": engines.terascope, "generate": engines.generate}


def preset(device: str) -> str:
    """The largest useful model for `device`."""
    if not device.startswith("cuda"):
        return "tiny"
    return "qwen3-8b" if torch.cuda.mem_get_info(device)[1] > LARGE_GIB * 2**30 else "qwen3-0.6b"


def describe(device: str) -> str:
    """The processor that computes, in a few words."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else f"no GPU: on {device}"


def random_checkpoint(model: str, device: str, tokenizer: Path | None, scratch: Path) -> Path:
    """The model `model` as files in `scratch`."""
    script = Path(engines.__file__).with_name("random_checkpoint.py")
    tokenizer_from = tokenizer or checkpoint(scratch)
    install.say(f"writing {model} with random weights")
    return install.script(script, model, tokenizer_from, scratch / "random", "--device", device)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--device", default="cuda:0")
    ask.add_argument("--model", choices=PRESETS, help="default: the largest that suits the device")
    ask.add_argument("--rounds", type=int, default=3)
    ask.add_argument("--checkpoint", type=Path, help="a directory with a model, in place of one with random weights")
    ask.add_argument("--tokenizer", type=Path, help="a directory with a tokenizer; default: that of SmolLM2, fetched")
    ask.add_argument("--times", type=int, default=3, help="most bursts of one size in a round")
    ask.add_argument("--bursts", default=",".join(map(str, BURSTS)), help="how many at once, by comma")
    a = ask.parse_args()
    bursts = {int(size): min(a.times, BURSTS.get(int(size), 2)) for size in a.bursts.split(",")}
    work = Work(PROMPT, TOKENS, bursts, WORDS, device=a.device, context_length=PROMPT + TOKENS)
    targets = [Target(f"vs_generate_{n}", ">=", 1.2) for n in bursts]
    print(report.machine(), flush=True)
    if a.device.startswith("cuda") and not torch.cuda.is_available():
        print("there is no GPU that PyTorch can use here: nothing is measured (--device cpu --model tiny would be)")
        report.finish("worker_gpu", engines.ratios({}, ("generate",), work), [], {})
        return
    model = a.checkpoint.name if a.checkpoint else a.model or preset(a.device)
    print(f"{describe(a.device)}; {model}, PyTorch {torch.__version__}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        files = a.checkpoint or random_checkpoint(model, a.device, a.tokenizer, Path(scratch))
        rounds = engines.take(SYSTEMS, files, work, a.rounds)
    middle = {name: report.medians(own) for name, own in rounds.items()}
    print(f"\n{engines.table(middle, work)}")
    report.finish("worker_gpu", engines.ratios(middle, ("generate",), work), targets, middle)


if __name__ == "__main__":
    processes.run("worker_gpu", main)

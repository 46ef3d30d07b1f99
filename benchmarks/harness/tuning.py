"""Our trainer beside a plain PEFT loop: the same model, lines, batches, ranks and threads, one after the other."""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from terascope.core.tuning import DEFAULTS, TuningMethod
from terascope.engines.torch.tuning.job import PROGRESS, TuningJob

from . import tune_peer
from .processes import Failed

STEPS, LINES, SKIPPED = 10, 80, 2
_WORDS = 40  # of a question; an answer has half as many
KINDS = ("terascope", "peft")


def make_job(directory: Path, model_dir: Path, converted: Path, words: list[str], threads: int, seed: int) -> None:
    """Write a job of `STEPS` steps with conversations of `words`, the same for the same `seed`."""
    chance = random.Random(seed)
    with (directory / "lines.jsonl").open("w") as file:
        for _ in range(LINES):
            asked = " ".join(chance.choices(words, k=chance.randint(_WORDS // 2, _WORDS)))
            answer = " ".join(chance.choices(words, k=chance.randint(_WORDS // 4, _WORDS // 2)))
            messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": messages}) + "\n")
    settings = replace(
        DEFAULTS[TuningMethod.LORA],
        max_steps=STEPS, held_out_share=0.0, checkpoint_every=10**6, micro_batch_tokens=1 << 20,
    )  # fmt: skip
    TuningJob(
        "bench", TuningMethod.LORA, "smol@1", "0" * 64, str(model_dir), str(directory / "lines.jsonl"),
        seed=seed, settings=settings, converted_dir=str(converted), threads=threads,
    ).write(directory)  # fmt: skip


def steps_per_s(kind: str, directory: Path) -> float:
    """Train once; the first steps, in which memory is first used, do not count. Raises Failed."""
    here = Path(tune_peer.__file__)
    ours = [sys.executable, "-m", "terascope.engines.torch.trainer", str(directory)]
    command = ours if kind == "terascope" else [sys.executable, "-m", "harness.tune_peer", str(directory)]
    env = {**os.environ, "PYTHONPATH": str(here.parents[1]), "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=here.parents[1])
    if done.returncode != 0:
        raise Failed(f"{kind} did not train: {done.stderr[-500:]}")
    if kind == "terascope":
        told = [json.loads(line) for line in (directory / PROGRESS).read_text().splitlines()]
        seconds = [one["seconds"] for one in told if one["kind"] == "step"]
    else:
        seconds = json.loads(done.stdout.splitlines()[-1])
    if len(seconds) != STEPS:
        raise Failed(f"{kind} made {len(seconds)} steps, not {STEPS}")
    return 1 / statistics.fmean(seconds[SKIPPED:])


def trained_once(
    kind: str, model_dir: Path, converted: Path, words: list[str], threads: int, seed: int
) -> dict[str, float]:
    """Train in a directory of its own; return its figures."""
    with tempfile.TemporaryDirectory() as scratch:
        make_job(Path(scratch), model_dir, converted, words, threads, seed)
        return {"steps_per_s": steps_per_s(kind, Path(scratch))}

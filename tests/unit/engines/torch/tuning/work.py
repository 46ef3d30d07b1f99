"""Jobs for the trainer: their directories, their data, and the trainer as a process."""

import base64
import io
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from terascope.core.tuning import DEFAULTS, TuningMethod
from terascope.engines.torch.tuning.job import PROGRESS, TuningJob

WORDS = ["cat", "dog", "fox", "hen", "owl", "cow", "bee", "ant", "pig", "rat", "elk", "emu"]


def chats(count: int = 12) -> list[dict[str, Any]]:
    """Conversations in which an animal is answered by its capitals."""
    asked = [WORDS[one % len(WORDS)] for one in range(count)]
    return [
        {"messages": [{"role": "user", "content": f"{word} {n}"}, {"role": "assistant", "content": word.upper()}]}
        for n, word in enumerate(asked)
    ]


def packed(vectors: Any) -> str:
    """Vectors as a request has them."""
    file = io.BytesIO()
    np.save(file, np.asarray(vectors, dtype=np.float32), allow_pickle=False)
    return base64.b64encode(file.getvalue()).decode()


def signals(count: int, seed: int, width: int = 16) -> list[dict[str, Any]]:
    """Lines that name the class of a noisy signal: `sine` or `square`, each of some frequency and phase."""
    chance = np.random.default_rng(seed)
    found = []
    for one in range(count):
        name = ("sine", "square")[one % 2]
        wave = np.sin(2 * np.pi * np.arange(width) / width + chance.uniform(0, 0.6))
        shape = wave if name == "sine" else np.sign(wave)
        vector = shape + chance.normal(0, 0.05, width)
        found.append({"prompt_embeds": packed(vector[None]), "completion": f" {name}"})
    return found


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> Path:
    """Write a training file."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def make_job(
    directory: Path,
    model_dir: Path,
    method: TuningMethod,
    lines: Iterable[Mapping[str, Any]],
    *,
    seed: int = 0,
    converted_dir: Path | None = None,
    validation: Iterable[Mapping[str, Any]] | None = None,
    **settings: Any,
) -> Path:
    """Write a job with its data into `directory`, which is made; return it."""
    directory.mkdir(parents=True)
    data = write_lines(directory / "training.jsonl", lines)
    measured = "" if validation is None else str(write_lines(directory / "validation.jsonl", validation))
    job = TuningJob(
        directory.name,
        method,
        "tiny@1",
        "d" * 64,
        str(model_dir),
        str(data),
        measured,
        seed,
        replace(DEFAULTS[method], **settings),
        licence="mit",
        converted_dir=str(converted_dir or ""),
        threads=1,
    )
    job.write(directory)
    return directory


def command(directory: Path) -> list[str]:
    """How the trainer is started."""
    return [sys.executable, "-W", "ignore", "-m", "terascope.engines.torch.trainer", str(directory)]


def told(directory: Path, kind: str = "") -> list[dict[str, Any]]:
    """What it told, all or of one kind."""
    lines = [json.loads(line) for line in (directory / PROGRESS).read_text().splitlines()]
    return [line for line in lines if kind in ("", line["kind"])]

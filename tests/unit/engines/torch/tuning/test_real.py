"""SmolLM2: a soft prompt and a LoRA adapter learn a small real task, a projector learns to name signals.

`elements.jsonl` asks for chemical elements as records of a fixed form. What is measured was never trained on.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from terascope.core.tuning import TuningMethod
from terascope.engines.torch.embeds import VectorForm, read_vectors
from terascope.engines.torch.projector import Projector
from terascope.engines.torch.tuning.base import Base, load_base
from terascope.engines.torch.tuning.job import DONE, RESULT, TuningJob
from terascope.testing.trainers import trained

from .work import make_job, packed, told

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
TASK = Path(__file__).parent / "elements.jsonl"
CONVERTED = Path.home() / ".cache" / "terascope-tests" / "converted" / "smollm2"
CLASSES = ("sine", "square", "triangle", "noise")
WIDTH = 32


def elements() -> list[dict[str, Any]]:
    return [json.loads(line) for line in TASK.read_text().splitlines()]


def wave(name: str, chance: np.random.Generator) -> np.ndarray:
    """One signal of a class, with some frequency, phase and noise."""
    turns = chance.uniform(1, 3) * np.arange(WIDTH) / WIDTH + chance.uniform(0, 1)
    shapes = {
        "sine": np.sin(2 * np.pi * turns),
        "square": np.sign(np.sin(2 * np.pi * turns)),
        "triangle": 4 * np.abs(turns % 1 - 0.5) - 1,
        "noise": chance.normal(0, 0.7, WIDTH),
    }
    return np.asarray(shapes[name] + chance.normal(0, 0.05, WIDTH))


def features(signal: np.ndarray) -> np.ndarray:
    """What a group's own encoder would give: the signal's spectrum and the spread of its values."""
    spectrum = np.abs(np.fft.rfft(signal)) / 8
    return np.concatenate([spectrum, np.sort(np.abs(signal))[::4]])


def signals(count: int, seed: int) -> list[dict[str, Any]]:
    chance = np.random.default_rng(seed)
    lines = []
    for one in range(count):
        name = CLASSES[one % len(CLASSES)]
        vectors = packed(features(wave(name, chance))[None])
        parts = [
            {"type": "text", "text": "Signal: "},
            {"type": "prompt_embeds", "prompt_embeds": vectors},
            {"type": "text", "text": "\nThis signal is a"},
        ]
        lines.append({"prompt_embeds": parts, "completion": f" {name}"})
    return lines


@pytest.mark.parametrize(
    ("method", "times", "settings"),
    [
        (TuningMethod.LORA, 5, {"max_steps": 12, "learning_rate": 2e-3}),
        (
            TuningMethod.SOFT_PROMPT,
            2,
            {"learning_rate": 2e-2, "vectors": 8, "init_text": "Answer as a record: symbol=; name="},
        ),
    ],
)
def test_a_small_real_task_is_learned(
    smol_dir: Path, tmp_path: Path, method: TuningMethod, times: float, settings: dict[str, Any]
) -> None:
    directory = make_job(
        tmp_path / "job",
        smol_dir,
        method,
        elements(),
        converted_dir=CONVERTED,
        held_out_share=0.15,
        n_epochs=1,
        batch_size=4,
        **settings,
    )
    assert trained(directory) == DONE
    losses = [line["loss"] for line in told(directory, "held_out")]
    assert losses[-1] < losses[0] / times, losses


def test_a_projector_learns_to_name_signals(smol_dir: Path, tmp_path: Path) -> None:
    fresh = signals(40, seed=2)
    directory = make_job(
        tmp_path / "job", smol_dir, TuningMethod.PROJECTOR, signals(200, seed=1), validation=fresh,
        converted_dir=CONVERTED, n_epochs=3, learning_rate=2e-3, batch_size=8, hidden=(64,), eval_every=75,
    )  # fmt: skip
    assert trained(directory) == DONE
    losses = [line["loss"] for line in told(directory, "held_out")]
    assert losses[-1] < losses[0] / 5, losses
    base, mapped = load_base(TuningJob.read(directory), lambda _: None), projector(directory)
    named = [said(base, mapped, line) for line in fresh]
    right = sum(name == line["completion"] for name, line in zip(named, fresh, strict=True))
    assert right >= 36, named


def projector(directory: Path) -> Projector:
    """The result, as the worker reads it."""
    arrays = load_file(directory / RESULT / "projector.safetensors")
    return Projector([(arrays[f"{n}.weight"], arrays[f"{n}.bias"]) for n in range(2)], "gelu")


@torch.no_grad()
def said(base: Base, mapped: Projector, line: dict[str, Any]) -> str:
    """The likeliest of the classes' names after a line's prompt."""
    module, words = base.module, base.vocabulary
    before, vectors, after = line["prompt_embeds"]
    own = read_vectors(vectors["prompt_embeds"], VectorForm(mapped.width, torch.float32), 8, "line")
    table = module.get_input_embeddings()
    pieces = [
        table(torch.tensor(words.encode(before["text"], special=True))),
        mapped(own),
        table(torch.tensor(words.encode(after["text"], special=False))),
    ]
    logits = module(inputs_embeds=torch.cat(pieces)[None], use_cache=False).logits[0, -1]
    firsts = [words.encode(f" {name}", special=False)[0] for name in CLASSES]
    return f" {CLASSES[int(logits[firsts].argmax())]}"

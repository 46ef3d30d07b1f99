"""The trainer as a process: repeated, killed anywhere and started again, told to stop, given bad data, out of room."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from terascope.core.tuning import TuningMethod
from terascope.engines.torch.tuning.job import CHECKPOINTS, DONE, FAILED, PROGRESS, RESULT, STOPPED
from terascope.internals.artefacts import projector_widths, soft_prompt_shape
from terascope.testing.trainers import over, started, trained

from .work import chats, command, make_job, signals, told

pytestmark = pytest.mark.slow
FAST: dict[str, Any] = {"n_epochs": 2, "batch_size": 4, "checkpoint_every": 3, "dropout": 0.1, "learning_rate": 0.01}


def results(directory: Path) -> dict[str, bytes]:
    """The files of a result."""
    return {path.name: path.read_bytes() for path in sorted((directory / RESULT).iterdir())}


@pytest.fixture(scope="module")
def whole(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job that was carried out without any interruption; every test leaves it as it is."""
    directory = make_job(tmp_path_factory.mktemp("jobs") / "whole", tiny_dir, TuningMethod.LORA, chats(), **FAST)
    assert trained(directory) == DONE
    return directory


@pytest.mark.parametrize("method", list(TuningMethod))
def test_a_job_from_its_data_to_its_result(tiny_dir: Path, tmp_path: Path, method: TuningMethod) -> None:
    lines = signals(40, 0) if method is TuningMethod.PROJECTOR else chats(40)
    directory = make_job(tmp_path / "one", tiny_dir, method, lines, **FAST)
    assert trained(directory) == DONE
    held_out = [line["loss"] for line in told(directory, "held_out")]
    assert held_out[-1] < held_out[0] * 0.9
    steps = told(directory, "step")
    assert [line["step"] for line in steps] == list(range(1, 19))
    assert steps[-1]["loss"] < steps[0]["loss"]
    end = told(directory, "done")[0]
    assert sorted(end["files"]) == sorted(results(directory))
    if method is TuningMethod.SOFT_PROMPT:
        assert soft_prompt_shape(results(directory)["soft_prompt.safetensors"]) == (16, 64)
    if method is TuningMethod.PROJECTOR:
        assert projector_widths(results(directory)["projector.safetensors"]) == (16, 256, 64)


def test_the_same_seed_gives_the_same_bits_and_another_others(whole: Path, tiny_dir: Path, tmp_path: Path) -> None:
    for name, seed in (("again", 0), ("other", 2)):
        assert trained(make_job(tmp_path / name, tiny_dir, TuningMethod.LORA, chats(), seed=seed, **FAST)) == DONE
    one, again, other = (results(directory) for directory in (whole, tmp_path / "again", tmp_path / "other"))
    assert one == again
    assert one["adapter_model.safetensors"] != other["adapter_model.safetensors"]


def kill_when(directory: Path, kind: str, step: int, number: signal.Signals) -> int:
    """Start the trainer; send it a signal as soon as it tells `kind` of `step`; return its exit status."""
    process = started(directory)
    path = directory / PROGRESS
    try:
        while process.is_alive():
            lines = [json.loads(one) for one in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []
            if any(one["kind"] == kind and one["step"] == step for one in lines):
                os.kill(process.pid or 0, number)
                break
            time.sleep(0.002)
        return over(process)
    finally:
        process.kill()


@pytest.mark.parametrize(("kind", "step"), [("started", 0), ("step", 3), ("checkpoint", 3), ("step", 5)])
def test_killed_and_started_again_it_ends_with_the_same_bits(
    whole: Path, tiny_dir: Path, tmp_path: Path, kind: str, step: int
) -> None:
    killed = make_job(tmp_path / "killed", tiny_dir, TuningMethod.LORA, chats(), **FAST)
    kill_when(killed, kind, step, signal.SIGKILL)
    assert trained(killed) == DONE
    assert results(killed) == results(whole)
    losses = {one["step"]: one["loss"] for one in told(whole, "step")}
    assert {one["step"]: one["loss"] for one in told(killed, "step")} == losses
    assert told(killed, "done")[-1]["tokens"] == told(whole, "done")[0]["tokens"]


def test_told_to_stop_it_writes_a_checkpoint(tiny_dir: Path, tmp_path: Path) -> None:
    options = {**FAST, "n_epochs": 500, "checkpoint_every": 1_000_000}
    directory = make_job(tmp_path / "one", tiny_dir, TuningMethod.LORA, chats(), **options)
    assert kill_when(directory, "step", 4, signal.SIGTERM) == STOPPED
    saved = told(directory, "checkpoint")
    assert len(saved) == 1
    assert saved[0]["step"] == told(directory, "step")[-1]["step"]
    assert not (directory / RESULT).exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"prompt": "a"}, "line 8: it must be"),
        ({"prompt": "a", "completion": "b " * 600}, "line 8: it has"),
        ({"prompt_embeds": "AAAA", "completion": "b"}, "line 8: it has vectors"),
    ],
)
def test_a_bad_line_ends_the_job(tiny_dir: Path, tmp_path: Path, line: dict[str, Any], words: str) -> None:
    lines = [*chats(7), line, *chats(3)]
    directory = make_job(tmp_path / "one", tiny_dir, TuningMethod.LORA, lines, **FAST)
    assert trained(directory) == FAILED
    error = told(directory, "error")[0]
    assert words in error["message"]
    assert (error["code"], error["param"]) == ("invalid_request", "training_file")


def test_what_could_not_be_registered_is_not_trained(tiny_dir: Path, tmp_path: Path) -> None:
    options = {**FAST, "hidden": (3000, 3000)}
    directory = make_job(tmp_path / "one", tiny_dir, TuningMethod.PROJECTOR, signals(8, 0), **options)
    assert trained(directory) == FAILED
    error = told(directory, "error")[0]
    assert (error["param"], "it may have 33,554,432" in error["message"]) == ("hidden", True)


def test_a_loss_that_is_no_number_ends_the_job(tiny_dir: Path, tmp_path: Path) -> None:
    options = {**FAST, "learning_rate": 1e30, "max_grad_norm": 1e6, "warmup_ratio": 0.0}
    directory = make_job(tmp_path / "one", tiny_dir, TuningMethod.LORA, chats(), **options)
    assert trained(directory) == FAILED
    assert "lower learning_rate" in told(directory, "error")[0]["message"]


def test_an_own_validation_file_is_measured(tiny_dir: Path, tmp_path: Path) -> None:
    directory = make_job(tmp_path / "one", tiny_dir, TuningMethod.LORA, chats(), validation=chats(3), **FAST)
    assert trained(directory) == DONE
    assert told(directory, "started")[0]["steps_in_epoch"] == 3
    per_measure = told(directory, "held_out")[0]["tokens"]
    assert [one["tokens"] for one in told(directory, "held_out")] == [per_measure, 2 * per_measure, 3 * per_measure]


def test_no_room_for_a_checkpoint_costs_only_the_checkpoint(tiny_dir: Path, tmp_path: Path) -> None:
    """`ulimit -f` stands in for the disk. The result is smaller than a checkpoint, and still fits."""
    directory = make_job(tmp_path / "one", tiny_dir, TuningMethod.LORA, chats(), **FAST)
    script = f"ulimit -f 80; trap '' XFSZ; exec {' '.join(command(directory))}"
    found = subprocess.run(["bash", "-c", script], capture_output=True, check=False, timeout=100)
    assert found.returncode == DONE, found.stderr[-2000:]
    warnings = told(directory, "warning")
    assert "could not be written" in warnings[0]["message"]
    assert list((directory / CHECKPOINTS).iterdir()) == []
    assert set(results(directory)) == {"README.md", "adapter_config.json", "adapter_model.safetensors", "training.json"}


def test_no_room_for_the_result_fails_clearly(tiny_dir: Path, tmp_path: Path) -> None:
    directory = make_job(tmp_path / "one", tiny_dir, TuningMethod.LORA, chats(), **FAST)
    script = f"ulimit -f 8; trap '' XFSZ; exec {' '.join(command(directory))}"
    found = subprocess.run(["bash", "-c", script], capture_output=True, check=False, timeout=100)
    assert found.returncode == FAILED
    assert told(directory, "error")[0]["code"] == "storage_full"
    assert results(directory) == {}

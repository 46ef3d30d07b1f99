"""The parts of the benchmarks of engines: how answers are compared, what is asked, random models, layouts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import determinism
import kv_layout
import pytest
import torch
from determinism import Answer
from harness import engines, layouts, random_checkpoint
from harness.engines import Work
from transformers import AutoConfig, AutoModelForCausalLM

BENCHMARKS = Path(determinism.__file__).parent
ONE = Answer("a b c", ("a", "b", "c"), (-1.0, -2.0, -3.0))


def _but(text: str = ONE.text, last: str = "c", logprobs: tuple[float, ...] = ONE.logprobs) -> Answer:
    return Answer(text, ("a", "b", last), logprobs)


@pytest.mark.parametrize(
    ("again", "figures"),
    [
        (_but(), (1, 1, 0)),
        (_but(logprobs=(-1.0, -2.5, -3.0)), (1, 0, 0.5)),
        (_but("a b d", "d", (-1.0, -2.25, -9.0)), (0, 0, 0.25)),  # what follows another token is not compared
    ],
)
def test_answers_are_compared(again: Answer, figures: tuple[float, float, float]) -> None:
    assert tuple(determinism.compare([ONE], [again]).values()) == figures
    share = 1 - (1 - figures[0]) / 2
    assert determinism.compare([ONE, ONE], [ONE, again])["same_text"] == share


def test_prompts_begin_differently_and_get_longer() -> None:
    prompts = determinism.prompts(12)
    assert len({prompt.split(". ")[0] for prompt in prompts}) == 12
    assert [len(prompt) for prompt in prompts] == sorted(len(prompt) for prompt in prompts)
    assert len(determinism.asked(12)) == 24


def test_the_worst_situation_counts() -> None:
    fine, bad = ({"same_text": 1.0, "same_bits": x, "max_logprob_diff": 1 - x} for x in (1.0, 0.5))
    taken = {"float32": {"ordinary": {"repeat": fine, "hit": bad}, "tokens_8": {"ordinary": 4.0, "reproducible": 2.0}}}
    assert determinism.result(taken) == {
        "same_text_float32": 1,
        "same_bits_float32": 0.5,
        "max_logprob_diff_float32": 0.5,
        "reproducible_speed_float32": 0.5,
    }


def test_engines_are_compared_where_both_were_measured() -> None:
    work = Work(4, 4, {1: 1, 8: 1}, range(10))
    middle = {"terascope": {"tokens_1": 6.0, "tokens_8": 9.0}, "generate": {"tokens_1": 3.0}}
    assert engines.ratios(middle, ("generate",), work) == {"vs_generate_1": 2, "vs_generate_8": None}
    assert "tokens_8" in engines.table(middle, work)


def test_every_engine_is_asked_the_same() -> None:
    work = Work(4, 4, {1: 1}, range(10, 20))
    assert work.prompts(3, 2) == work.prompts(3, 2) != work.prompts(4, 2)
    assert {len(prompt) for prompt in work.prompts(3, 2)} == {4}


@pytest.mark.parametrize(("name", "parameters"), [("qwen3-8b", 8.19e9), ("qwen3-0.6b", 0.596e9), ("tiny", 3.2e6)])
def test_presets_have_as_many_parameters_as_the_published_models(name: str, parameters: float) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(random_checkpoint.PRESETS[name].config())
    assert sum(one.numel() for one in model.parameters()) == pytest.approx(parameters, rel=0.02)


def test_a_random_checkpoint_can_be_read(tiny_tokenizer: Path, tmp_path: Path) -> None:
    random_checkpoint.write("tiny", tiny_tokenizer, tmp_path / "made", "cpu")
    assert AutoConfig.from_pretrained(tmp_path / "made").dtype == torch.bfloat16
    assert (tmp_path / "made" / "tokenizer.json").exists()


@pytest.fixture
def tiny_tokenizer(tmp_path: Path) -> Path:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def test_mixed_lengths_are_spread_over_all() -> None:
    lengths = layouts.lengths_of(8, "mixed")
    assert (min(lengths), max(lengths), len(set(lengths))) == (64, 4096, 8)
    assert lengths != sorted(lengths)
    assert layouts.lengths_of(2, "160") == [160, 160]


@torch.inference_mode()
@pytest.mark.parametrize("whole", [False, True])
def test_slots_compute_what_blocks_do(whole: bool) -> None:
    """The same keys and values in both, of rows that are computed in two groups."""
    lengths, dtype = [100, 33, 17, 90, 80, 70], torch.float32
    blocks = layouts.Blocks(lengths, dtype, 1)
    slots = layouts.Slots(blocks.layout, dtype, 1, whole=whole)
    assert len(blocks.layout.singles) == 2
    new = layouts.Decode.random(len(lengths), dtype)
    expected = blocks.run(new)
    slots.fill(blocks)
    assert torch.allclose(slots.run(new), expected, atol=1e-5)


def test_what_was_not_measured_is_not_told() -> None:
    taken = {"float32_8_160": {"vs_slots": 1.5, "blocks_us": 3.0}, "float32_prefix": {"copy_ms": 2.0, "share_ms": 0.1}}
    assert kv_layout.result(taken) == {
        "vs_slots_float32_8_160": 1.5,
        "copy_ms_float32_prefix": 2.0,
        "share_ms_float32_prefix": 0.1,
    }


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which would be measured")
def test_without_a_gpu_nothing_is_measured() -> None:
    command = [sys.executable, str(BENCHMARKS / "worker_gpu.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True, env={**os.environ})
    assert "there is no GPU" in done.stdout
    last = json.loads(done.stdout.splitlines()[-1])
    assert {last[f"vs_generate_{n}"] for n in (1, 8, 32, 128)} == {None}

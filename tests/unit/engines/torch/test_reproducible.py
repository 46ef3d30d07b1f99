"""`reproducible: true`: the same bits at every repeat, whoever is computed beside it and on however many threads."""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MixtralConfig, MixtralForCausalLM, Qwen3Config, Qwen3ForCausalLM

from terascope.engines.torch.model import CausalModel, load_causal
from terascope.engines.torch.rows import RowPlan
from terascope.engines.torch.sampling import score
from terascope.engines.torch.settings import WorkerSettings

from .conftest import CACHE, Client, make_tokenizer
from .driver import Asked, Driver, plan

TEXT = "v1/completions"
SIZE = 320
SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
}


def _prompt(number: int, length: int) -> list[int]:
    return [(number * 41 + i * 13 + 3) % SIZE for i in range(length)]


def _loaded(directory: Path, module: Any) -> CausalModel:
    module.save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    return load_causal(WorkerSettings(directory, "tiny", cache_tokens=1600, dtype="bfloat16"), lambda _: None)


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> CausalModel:
    """Its experts work on as many tokens as chose them."""
    torch.manual_seed(2)
    config = MixtralConfig(vocab_size=len(make_tokenizer()), num_local_experts=4, **SMALL)
    return _loaded(tmp_path_factory.mktemp("mixtral"), MixtralForCausalLM(config))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> CausalModel:
    torch.manual_seed(2)
    config = Qwen3Config(vocab_size=len(make_tokenizer()), **SMALL)
    return _loaded(tmp_path_factory.mktemp("qwen"), Qwen3ForCausalLM(config))


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Computes with so many threads until the test is over."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def _bits(asked: Asked) -> tuple[list[int], list[float]]:
    assert asked.error is None
    assert len(asked.tokens()) == len(asked.logprobs())
    return asked.tokens(), asked.logprobs()


def _among(driver: Driver, mine: RowPlan, neighbours: int, late: int) -> Asked:
    """Ask for `mine` when `neighbours` rows of all kinds have had `late` steps."""
    for number in range(neighbours):
        prompt = _prompt(number + 1, 1 + number * 37 % 180)
        driver.ask(plan(prompt, 2 + number % 20, seed=number, reproducible=number % 2 == 0))
    for _ in range(late):
        driver.step()
    asked = driver.ask(mine)
    driver.finish()
    return asked


SETTINGS = list(itertools.product([1, 7, 31], [0, 9]))


def _repeats(model: CausalModel, length: int, most: int, seed: int | None) -> None:
    """Compute a row alone, among neighbours, and once it has lost its place at different points."""
    mine = plan(_prompt(0, length), most, seed=seed, reproducible=True)
    expected = _bits(Driver(model).alone(mine))
    for neighbours, late in SETTINGS:
        assert _bits(_among(Driver(model), mine, neighbours, late)) == expected
    for steps in (1, 4, 9):
        assert _bits(_lost(Driver(model), mine, steps)) == expected


def _lost(driver: Driver, mine: RowPlan, steps: int) -> Asked:
    """Ask for `mine`, take its blocks away after so many steps, and go on."""
    for number in range(3):
        driver.ask(plan(_prompt(number + 1, 30), 40, seed=number, reproducible=number == 1))
    asked = driver.ask(mine)
    for _ in range(steps):
        driver.step()
    driver._schedule._preempt(asked.rows[0])
    driver.finish()
    assert driver.preemptions == 1
    return asked


@pytest.mark.parametrize("length", [1, 20, 150])
@pytest.mark.parametrize("seed", [None, 5])
def test_a_repeat_has_the_same_bits(half_tiny: CausalModel, length: int, seed: int | None) -> None:
    assert half_tiny.packed.fixed_rows > 1
    _repeats(half_tiny, length, 12, seed)


@pytest.mark.parametrize("name", ["mixtral", "qwen"])
def test_whatever_the_model_allows(name: str, request: pytest.FixtureRequest) -> None:
    model: CausalModel = request.getfixturevalue(name)
    assert model.packed.fixed_rows in (1, 8)
    assert model.packed.find_fixed_rows() == model.packed.fixed_rows
    assert model.packed.pool.free == model.packed.pool.blocks
    _repeats(model, 140, 10, 7)


def test_a_model_whose_rows_depend_on_their_neighbours_computes_one_at_a_time(half_tiny: CausalModel) -> None:
    """A hook that mixes the rows of a batch stands for such a model."""
    module, packed = half_tiny.packed.module, half_tiny.packed
    before = packed.fixed_rows

    def mix(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        return output + output.abs().amax(1, keepdim=True) * 2**-6

    handle = module.get_submodule("model.layers.0").register_forward_hook(mix)
    try:
        assert packed.find_fixed_rows() == 1
        assert packed.pool.free == packed.pool.blocks
        mine = plan(_prompt(0, 140), 8, seed=1, reproducible=True)
        expected = _bits(Driver(half_tiny).alone(mine))
        assert _bits(_among(Driver(half_tiny), mine, 7, 3)) == expected
    finally:
        handle.remove()
        packed.fixed_rows = before


def test_what_is_not_reproducible_differs_in_its_bits(half_tiny: CausalModel) -> None:
    """Else the tests above would show nothing."""
    mine = plan(_prompt(0, 150), 12, seed=5)
    expected = Driver(half_tiny).alone(mine).logprobs()
    found = [_among(Driver(half_tiny), mine, neighbours, late).logprobs() for neighbours, late in SETTINGS]
    assert any(one != expected for one in found)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(1, 140), st.integers(1, 9), st.integers(0, 6)), min_size=2, max_size=9))
def test_reproducible_rows_beside_each_other(half_tiny: CausalModel, wanted: list[tuple[int, int, int]]) -> None:
    """They come at different steps, so that they meet in every place of the fixed batch."""
    plans = [
        plan(_prompt(i, length), most, seed=i if i % 2 else None, reproducible=True)
        for i, (length, most, _) in enumerate(wanted)
    ]
    driver = Driver(half_tiny)
    asked = []
    for one, (_, _, steps) in zip(plans, wanted, strict=True):
        asked.append(driver.ask(one))
        for _ in range(steps):
            driver.step()
    driver.finish()
    for one, found in zip(plans, asked, strict=True):
        assert _bits(found) == _bits(Driver(half_tiny).alone(one))


def _told(answer: Any) -> list[float]:
    return list(answer["choices"][0]["logprobs"]["token_logprobs"])


async def test_streamed_or_not(half_tiny: CausalModel, start: Callable[..., Any]) -> None:
    client: Client = await start(half_tiny, max_batch=32)
    asked: dict[str, Any] = {"prompt": _prompt(0, 140), "max_tokens": 15, "seed": 3, "logprobs": 2}
    asked |= {"reproducible": True, "ignore_eos": True}
    whole = await client.ask(TEXT, **asked)
    others = [client.ask(TEXT, prompt=_prompt(i, 9 * i), max_tokens=9, reproducible=i % 2 == 0) for i in range(1, 15)]
    events, again, *_ = await asyncio.gather(client.events(TEXT, **asked), client.ask(TEXT, **asked), *others)
    streamed = [value for event in events[:-1] for value in event["choices"][0]["logprobs"]["token_logprobs"]]
    assert len(streamed) == 15
    assert streamed == _told(whole) == _told(again)
    assert again["choices"] == whole["choices"]
    two = await client.ask(TEXT, **asked, n=2)
    assert two["choices"][0] == whole["choices"][0]
    assert two["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


@pytest.fixture(scope="module")
def half_smol(smol: CausalModel) -> CausalModel:
    """SmolLM2 in bfloat16. What loading `smol` has unpacked is there."""
    assert smol.dtype == "float32"
    directory = CACHE / "converted" / "smollm2" / "float32"
    return load_causal(WorkerSettings(directory, "tiny", cache_tokens=40_000, dtype="bfloat16"), lambda _: None)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_a_real_model(half_smol: CausalModel, threads: Callable[[int], None], count: int) -> None:
    threads(count)
    words = half_smol.vocabulary
    text = "The library stood at the end of a long road, and nobody who had gone there came back the same. " * 8
    prompt = words.encode(text, special=True)[:140]
    mine = plan(prompt, 5, seed=9, reproducible=True)
    expected = _bits(Driver(half_smol).alone(mine))
    assert half_smol.packed.fixed_rows == 8
    for neighbours, late in ((1, 0), (7, 5)):
        driver = Driver(half_smol)
        others = [plan(prompt[i : i + 20], 4, seed=i, reproducible=i % 2 == 0) for i in range(neighbours)]
        for one in others:
            driver.ask(one)
        for _ in range(late):
            driver.step()
        asked = driver.ask(mine)
        driver.finish()
        assert _bits(asked) == expected


@pytest.mark.slow
def test_a_real_model_loses_its_place(half_smol: CausalModel) -> None:
    prompt = half_smol.vocabulary.encode("Once upon a time there was a lighthouse keeper " * 4, special=True)[:40]
    mine = plan(prompt, 12, seed=9, reproducible=True)
    expected = _bits(Driver(half_smol).alone(mine))
    for steps in (1, 6):
        assert _bits(_lost(Driver(half_smol), mine, steps)) == expected


@pytest.mark.parametrize("count", [1, 2, 4])
def test_log_probabilities_are_the_same_bits_beside_others(threads: Callable[[int], None], count: int) -> None:
    """PyTorch adds up a single row in parts where it has several threads, several rows each as a whole."""
    threads(count)
    logits = torch.randn(200, 49_152, generator=torch.Generator().manual_seed(6)).bfloat16().float() * 3
    together = score(logits, [0] * 200, 2)
    assert [score(row[None], [0], 2)[0] for row in logits] == together

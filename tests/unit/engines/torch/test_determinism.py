"""In float32 a row's answer is that of plain transformers, whoever is computed beside it and whatever is known."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaForCausalLM, PreTrainedModel

from terascope.engines.torch.cache import BLOCK
from terascope.engines.torch.model import CausalModel

from .conftest import NAN_TOKEN
from .driver import Driver, computed, generated, plan

MOST = 6
SIZE = 320  # tokens that are used; the tiny model has some more


@pytest.fixture(scope="module")
def plain(tiny_dir: Path) -> PreTrainedModel:
    """The tiny model as transformers itself runs it."""
    model: PreTrainedModel = LlamaForCausalLM.from_pretrained(tiny_dir, attn_implementation="eager")
    return model.eval().requires_grad_(False)


@dataclass(frozen=True)
class Setting:
    """What must make no difference."""

    neighbours: int
    step_tokens: int
    cache_tokens: int
    warm: bool
    shared: int  # tokens that the neighbours begin with too
    late: int  # steps that the neighbours have had before


prompts = st.tuples(st.integers(0, SIZE - 1), st.integers(1, 97), st.integers(1, 120)).map(
    lambda one: [(one[0] + i * one[1] + i * i) % SIZE for i in range(one[2])]
)
around = st.builds(
    Setting,
    neighbours=st.sampled_from([0, 1, 7, 31]),
    step_tokens=st.sampled_from([1, 64, 512]),
    cache_tokens=st.sampled_from([1200, 40_000]),
    warm=st.booleans(),
    shared=st.integers(0, 150),
    late=st.integers(0, 8),
)


def _among(model: CausalModel, prompt: Sequence[int], given_setting: Setting, seed: int | None) -> Driver:
    """A driver in which the last request is the one that counts."""
    driver = Driver(model, given_setting.cache_tokens, 32, given_setting.step_tokens)
    if given_setting.warm:
        driver.alone(plan(prompt, 1, scope="us"))
    for number in range(given_setting.neighbours):
        theirs = [*prompt[: given_setting.shared], *[(number * 7 + i * 3) % SIZE for i in range(1 + number * 5 % 60)]]
        driver.ask(plan(theirs, 1 + number % 8, seed=number if number % 3 else None, scope="us"))
    for _ in range(given_setting.late):
        driver.step()
    driver.ask(plan(prompt, MOST, seed=seed, scope="us"))
    driver.finish()
    return driver


@settings(max_examples=60)
@given(prompts, around, st.none() | st.integers(0, 2**40))
def test_nothing_around_a_row_changes_it(
    tiny: CausalModel, plain: PreTrainedModel, prompt: list[int], given_setting: Setting, seed: int | None
) -> None:
    expected, logprobs = computed(plain, prompt, MOST, seed=seed)
    if seed is None:
        assert generated(plain, prompt, MOST) == expected
    found = list(_among(tiny, prompt, given_setting, seed)._asked.values())[-1]
    assert found.tokens() == expected
    assert found.logprobs() == pytest.approx(logprobs, abs=1e-4)
    if given_setting.warm and given_setting.neighbours == 0:
        assert found.cached == [(len(prompt) - 1) // BLOCK * BLOCK]


@pytest.mark.parametrize("seed", [None, 11])
def test_chunks_hits_and_lost_memory_all_happen(tiny: CausalModel, plain: PreTrainedModel, seed: int | None) -> None:
    """What the property relies on: each of them occurs, and together."""
    prompt = [(i * 37 + 5) % SIZE for i in range(200)]
    driver = Driver(tiny, cache_tokens=528, step_tokens=40)
    driver.alone(plan(prompt[:100], 1, scope="us"))
    asked = [driver.ask(plan(prompt[: 150 + 10 * i], 60, seed=seed, scope="us")) for i in range(5)]
    driver.finish()
    assert driver.preemptions > 0
    assert max(one.cached[0] for one in asked) >= 96
    assert driver.together > 1
    for i, one in enumerate(asked):
        assert one.tokens() == computed(plain, prompt[: 150 + 10 * i], 60, seed=seed)[0]


def test_answers_are_found_again_as_prompts(tiny: CausalModel, plain: PreTrainedModel) -> None:
    """The blocks of an answer serve the next turn of a conversation."""
    driver = Driver(tiny)
    prompt = [(i * 31 + 2) % SIZE for i in range(40)]
    answer = driver.alone(plan(prompt, 30, scope="us")).tokens()
    longer = [*prompt, *answer, 7, 8, 9]
    second = driver.alone(plan(longer, 10, scope="us"))
    assert second.cached == [(len(prompt) + len(answer) - 1) // BLOCK * BLOCK]
    assert second.tokens() == generated(plain, longer, 10)


def test_several_answers_to_one_prompt_compute_it_once(tiny: CausalModel, plain: PreTrainedModel) -> None:
    driver = Driver(tiny)
    prompt = [(i * 29 + 2) % SIZE for i in range(100)]
    asked = driver.ask(*[plan(prompt, 1, scope="us")] * 4)
    driver.finish()
    assert asked.cached == [0, 96, 96, 96]
    assert driver.computed == 100 + 3 * 4
    assert [asked.tokens(i) for i in range(4)] == [generated(plain, prompt, 1)] * 4


def test_threads_make_no_difference_to_tokens(tiny: CausalModel) -> None:
    prompt = [(i * 23 + 2) % SIZE for i in range(90)]
    found = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(Driver(tiny).alone(plan(prompt, 20, seed=4)).tokens())
    torch.set_num_threads(before)
    assert found[0] == found[1]


def test_a_bad_prompt_that_loses_its_memory_leaves_no_bad_numbers(broken_tiny: CausalModel) -> None:
    """Before anything has been chosen nobody knows whether what is in its blocks are numbers."""
    fine = plan([(i * 17 + 1) % 290 for i in range(20)], 20)
    expected = Driver(broken_tiny).alone(fine).tokens()
    driver = Driver(broken_tiny, cache_tokens=10 * BLOCK, step_tokens=50)
    old = driver.ask(plan([9] * 20, 100))
    driver.step()
    bad = driver.ask(plan([NAN_TOKEN] * 110, 5))
    driver.step()
    assert 0 < bad.rows[0].computed < 110
    driver._schedule._preempt(bad.rows[0])
    driver._end(bad.job)  # its client leaves
    found = driver.ask(fine)
    driver.finish()
    assert (found.error, old.error) == (None, None)
    assert found.tokens() == expected

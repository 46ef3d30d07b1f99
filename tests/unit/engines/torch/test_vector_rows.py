"""Rows whose prompts have vectors in them: the cache, neighbours, memory that does not suffice."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from terascope.engines.torch.attachment import VECTOR
from terascope.engines.torch.cache import BLOCK, Digests
from terascope.engines.torch.model import CausalModel
from terascope.engines.torch.prompts import Prompt, joined
from terascope.engines.torch.rows import RowPlan

from .driver import Driver, plan
from .sent import rows_of

SIZE = 320


def _tokens(number: int, length: int = 50) -> list[int]:
    return [(number * 41 + i * 13 + 3) % SIZE for i in range(length)]


def _split(model: CausalModel, tokens: list[int], cuts: Sequence[int]) -> Prompt:
    """`tokens`, every second stretch between `cuts` as rows of the embedding table."""
    places = [0, *sorted(cuts), len(tokens)]
    stretches = [tokens[a:b] for a, b in itertools.pairwise(places)]
    return joined(rows_of(model, one) if n % 2 and one else one for n, one in enumerate(stretches))


def _plan(prompt: Prompt, most: int = 8, *, seed: int | None = None, scope: str | None = None) -> RowPlan:
    return plan(prompt.tokens, most, seed=seed, scope=scope, inserts=prompt.inserts)


def _vectors(number: int, count: int = 3 * BLOCK) -> Tensor:
    return torch.randn(count, 64, generator=torch.Generator().manual_seed(number)) * 0.3


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(0, 50), max_size=4), min_size=1, max_size=6),
    seed=st.none() | st.integers(0, 9),
    cache=st.sampled_from([96, 160, 4000]),
    step=st.sampled_from([32, 64, 512]),
)
def test_rows_of_the_table_are_their_tokens(
    tiny: CausalModel, rows: list[list[int]], seed: int | None, cache: int, step: int
) -> None:
    """Beside each other, in parts, with the cache too small for all of them."""
    driver = Driver(tiny, cache_tokens=cache, step_tokens=step)
    prompts = [_tokens(number % 3) for number in range(len(rows))]
    split = [_split(tiny, tokens, cuts) for tokens, cuts in zip(prompts, rows, strict=True)]
    asked = [driver.ask(_plan(one, seed=seed, scope="s")) for one in split]
    driver.finish()
    for tokens, one in zip(prompts, asked, strict=True):
        right = Driver(tiny).alone(plan(tokens, 8, seed=seed))
        assert one.tokens() == right.tokens()
        assert one.logprobs() == pytest.approx(right.logprobs(), abs=1e-4)


def test_memory_that_does_not_suffice_changes_nothing(tiny: CausalModel) -> None:
    driver = Driver(tiny, cache_tokens=8 * BLOCK)
    prompts = [joined([_tokens(number, 20), _vectors(number, 20)]) for number in range(4)]
    asked = [driver.ask(_plan(one, 30)) for one in prompts]
    driver.finish()
    assert driver.preemptions > 0
    for one, prompt in zip(asked, prompts, strict=True):
        assert one.tokens() == Driver(tiny).alone(_plan(prompt, 30)).tokens()


def test_the_same_vectors_are_computed_once(tiny: CausalModel) -> None:
    driver = Driver(tiny)
    prompt = joined([_tokens(1, 5), _vectors(1), _tokens(2, 5)])
    first = driver.alone(_plan(prompt, scope="s"))
    again = driver.alone(_plan(joined([_tokens(1, 5), _vectors(1), _tokens(2, 5)]), scope="s"))
    assert (first.cached, again.cached) == ([0], [3 * BLOCK])
    assert again.tokens() == first.tokens()


def test_other_vectors_never_hit(tiny: CausalModel) -> None:
    """One number of one vector differs, or only the place, or only the scope."""
    driver = Driver(tiny)
    vectors = _vectors(1)
    driver.alone(_plan(joined([vectors, [7]]), scope="s"))
    other = vectors.clone()
    other[0, 0] += 1e-6
    for prompt, scope in (
        (joined([other, [7]]), "s"),
        (joined([vectors[1:], vectors[:1], [7]]), "s"),
        (joined([vectors, [7]]), "t"),
        (joined([[7], vectors]), "s"),
    ):
        assert driver.alone(_plan(prompt, scope=scope)).cached == [0]


def test_tokens_never_hit_vectors(tiny: CausalModel) -> None:
    """Not even the token that is computed with where a vector has none."""
    driver = Driver(tiny)
    for vectors in (_vectors(2), rows_of(tiny, [0] * 3 * BLOCK)):
        driver.alone(_plan(joined([vectors, [7]]), scope="s"))
    assert driver.alone(plan([0] * 3 * BLOCK + [7], scope="s")).cached == [0]
    assert driver.alone(_plan(joined([rows_of(tiny, [0] * 3 * BLOCK), [7]]), scope="s")).cached == [3 * BLOCK]


def test_several_answers_read_vectors_once(tiny: CausalModel) -> None:
    driver = Driver(tiny)
    prompt = joined([_vectors(3), [7]])
    plans = [_plan(prompt, seed=seed, scope="s") for seed in range(3)]
    asked = driver.ask(*plans)
    driver.finish()
    assert asked.cached == [0, 3 * BLOCK, 3 * BLOCK]


@given(st.lists(st.integers(0, 40), max_size=3), st.integers(0, 39), st.integers(0, 1))
def test_a_digest_is_of_every_number(cuts: list[int], changed: int, column: int) -> None:
    """Whatever vector changes, the blocks before it keep their digests, and its own and all after it do not."""
    vectors = torch.arange(80.0).view(40, 2)
    places = [0, *sorted(cuts), 40]
    parts = [vectors[a:b] for a, b in itertools.pairwise(places) if a < b]
    other = vectors.clone()
    other[changed, column] += 1
    before = Digests("s", [VECTOR] * 40, joined(parts).inserts).first(2)
    after = Digests("s", [VECTOR] * 40, joined([other[a:b] for a, b in itertools.pairwise(places)]).inserts)
    same = [one == two for one, two in zip(before, after.first(2), strict=True)]
    assert same == [block < changed // BLOCK for block in range(2)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_takes_vectors(tiny: CausalModel, half_tiny: CausalModel, dtype: torch.dtype) -> None:
    model = tiny if dtype == torch.float32 else half_tiny
    assert model.form is not None
    assert (model.form.width, model.form.dtype) == (64, dtype)
    model.packed.pool.check()


def test_a_model_that_computes_otherwise_takes_none(tiny: CausalModel) -> None:
    """One that needs its tokens, and one that adds something by token."""
    base = tiny.packed.module.base_model

    def refuse(_: torch.nn.Module, __: tuple[Tensor], given: dict[str, Tensor]) -> None:
        if given.get("input_ids") is None:
            raise ValueError("it wants tokens")

    def add(_: torch.nn.Module, __: tuple[Tensor], given: dict[str, Tensor]) -> tuple[tuple[()], dict[str, Tensor]]:
        scale = 1.0 if given.get("input_ids") is None else 1.5
        vectors = given.get("inputs_embeds")
        if vectors is None:
            vectors = tiny.packed.module.get_input_embeddings()(given["input_ids"])
        noise = scale * torch.ones_like(vectors)
        return (), {name: x for name, x in given.items() if name != "input_ids"} | {"inputs_embeds": vectors + noise}

    for hook in (refuse, add):
        handle = base.register_forward_pre_hook(hook, with_kwargs=True)
        try:
            assert not tiny.packed.takes_vectors()
        finally:
            handle.remove()
    assert tiny.packed.takes_vectors()

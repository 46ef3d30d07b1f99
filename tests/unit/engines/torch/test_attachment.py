"""What rows bring along: each gets its own, and nobody beside it notices."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel

from terascope.engines.torch.attachment import Attachment, Insert, Part
from terascope.engines.torch.cache import BLOCK
from terascope.engines.torch.model import CausalModel

from .driver import Asked, Driver, computed, plan

SIZE = 320
WIDTH, MIDDLE = 64, 128


def _prompt(number: int, length: int = 30) -> list[int]:
    return [(number * 41 + i * 13 + 3) % SIZE for i in range(length)]


@pytest.fixture(scope="module")
def plain(tiny_dir: Path) -> PreTrainedModel:
    model: PreTrainedModel = LlamaForCausalLM.from_pretrained(tiny_dir, attn_implementation="eager")
    return model.eval().requires_grad_(False)


@dataclass(frozen=True)
class Steering:
    """Adds a vector to what a layer of the model passes on."""

    layer: int
    vector: Tensor

    @contextmanager
    def attach(self, module: PreTrainedModel, part: Part) -> Iterator[None]:
        def hook(_: Any, __: Any, output: Tensor) -> None:
            output[0, part.first : part.last] += self.vector

        handle = module.get_submodule(f"model.layers.{self.layer}").register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()


@dataclass(frozen=True)
class Capture:
    """Keeps what a layer passes on, by position."""

    layer: int
    seen: dict[int, Tensor] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)

    @contextmanager
    def attach(self, module: PreTrainedModel, part: Part) -> Iterator[None]:
        self.parts.append(part)

        def hook(_: Any, __: Any, output: Tensor) -> None:
            for offset, state in enumerate(output[0, part.first : part.last].clone()):
                self.seen[part.start + offset] = state

        handle = module.get_submodule(f"model.layers.{self.layer}").register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()


@dataclass(frozen=True)
class LowRank:
    """An adapter of one linear layer, that of layer `layer` behind the activation."""

    layer: int
    down: Tensor
    up: Tensor

    @contextmanager
    def attach(self, module: PreTrainedModel, part: Part) -> Iterator[None]:
        def hook(_: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            output[0, part.first : part.last] += inputs[0][0, part.first : part.last] @ self.down @ self.up

        handle = module.get_submodule(f"model.layers.{self.layer}.mlp.down_proj").register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()


@dataclass(frozen=True)
class QueryOnly:
    """Changes what goes into one of the layers that share an input."""

    @contextmanager
    def attach(self, module: PreTrainedModel, part: Part) -> Iterator[None]:
        def hook(_: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
            changed = inputs[0].clone()
            changed[0, part.first : part.last] *= 1.5
            return (changed,)

        handle = module.get_submodule("model.layers.0.self_attn.q_proj").register_forward_pre_hook(hook)
        try:
            yield
        finally:
            handle.remove()


class Refusing:
    """Cannot be attached once the row has come to position `at`; or raises in the pass itself."""

    def __init__(self, at: int, *, inside: bool) -> None:
        self._at, self._inside = at, inside

    def attach(self, module: PreTrainedModel, part: Part) -> AbstractContextManager[None]:
        if part.last - part.first + part.start > self._at and not self._inside:
            raise KeyError("there is no such layer")
        return self._attached(module, part)

    @contextmanager
    def _attached(self, module: PreTrainedModel, part: Part) -> Iterator[None]:
        def hook(*_: Any) -> None:
            if part.last - part.first + part.start > self._at:
                raise ArithmeticError("a mistake of the hook")

        handle = module.get_submodule("model.layers.1").register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()


def _attachment(kind: str, seed: int = 1) -> Attachment:
    made = torch.Generator().manual_seed(seed)
    if kind == "steering":
        return Steering(seed % 2, torch.randn(WIDTH, generator=made))
    if kind == "low rank":
        return LowRank(seed % 2, torch.randn(MIDDLE, 2, generator=made), torch.randn(2, WIDTH, generator=made))
    return QueryOnly() if kind == "query" else Capture(seed % 2)


KINDS = ("steering", "low rank", "capture", "query")
kinds = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(1, 9)), max_size=3)


def _is_as_alone(model: PreTrainedModel, asked: Asked, most: int, seed: int | None) -> None:
    row = asked.rows[0].plan
    bring: dict[str, Any] = {"inserts": row.inserts, "attachments": row.attachments}
    tokens, logprobs = computed(model, row.prompt, most, seed=seed, **bring)
    assert asked.tokens() == tokens
    assert asked.logprobs() == pytest.approx(logprobs, abs=2e-4)


@settings(max_examples=25)
@given(
    st.lists(st.tuples(kinds, st.integers(1, 70), st.none() | st.integers(0, 99)), min_size=2, max_size=6),
    st.sampled_from([1, 40, 512]),
    st.sampled_from([144, 40_000]),
)
def test_rows_with_and_without_share_steps(
    tiny: CausalModel,
    plain: PreTrainedModel,
    wanted: list[tuple[list[tuple[str, int]], int, int | None]],
    step_tokens: int,
    cache_tokens: int,
) -> None:
    """Chunked or not, and also where rows lose their memory and are computed again."""
    driver = Driver(tiny, cache_tokens, 5, step_tokens)
    asked = [
        driver.ask(plan(_prompt(i, length), 5, seed=seed, attachments=[_attachment(*one) for one in brought]))
        for i, (brought, length, seed) in enumerate(wanted)
    ]
    driver.finish()
    assert driver.together > 1
    for one, (_, _, seed) in zip(asked, wanted, strict=True):
        _is_as_alone(plain, one, 5, seed)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_changes_what_it_says_it_does(plain: PreTrainedModel, kind: str) -> None:
    """Else the comparisons above would compare nothing."""
    (bare, _), (found, _) = (computed(plain, _prompt(1), 8, attachments=one) for one in ([], [_attachment(kind)]))
    assert (bare == found) is (kind == "capture")


def test_all_of_them_at_once_in_one_lost_and_chunked_batch(tiny: CausalModel, plain: PreTrainedModel) -> None:
    driver = Driver(tiny, cache_tokens=320, max_batch=6, step_tokens=24)
    asked = [driver.ask(plan(_prompt(i, 40 + i), 40, attachments=[_attachment(KINDS[i % 4], i)])) for i in range(6)]
    driver.finish()
    assert driver.preemptions > 0
    for one in asked:
        _is_as_alone(plain, one, 40, None)


@pytest.mark.parametrize("cache_tokens", [160, 40_000])
def test_a_capture_sees_every_position_once_it_is_computed(
    tiny: CausalModel, plain: PreTrainedModel, cache_tokens: int
) -> None:
    mine, expected = Capture(1), Capture(1)
    driver = Driver(tiny, cache_tokens, 4, 20)
    driver.ask(plan(_prompt(2, 50), 60))
    asked = driver.ask(plan(_prompt(1, 50), 30, attachments=[mine]))
    driver.finish()
    assert (driver.preemptions > 0) is (cache_tokens == 160)
    whole = [*_prompt(1, 50), *asked.tokens()]
    assert sorted(mine.seen) == list(range(len(whole) - 1))  # what the last token leads to nobody has asked for
    computed(plain, whole[:-1], 1, attachments=[expected])
    for position, state in mine.seen.items():
        torch.testing.assert_close(state, expected.seen[position], atol=2e-3, rtol=1e-3)
    assert len({part.first for part in mine.parts}) > 1


def test_a_capture_sees_what_is_not_known_already(tiny: CausalModel) -> None:
    driver = Driver(tiny)
    driver.alone(plan(_prompt(1, 50), 1, scope="us"))
    capture = Capture(0)
    driver.alone(plan(_prompt(1, 50), 2, scope="us", attachments=[capture]))
    assert sorted(capture.seen) == list(range(3 * BLOCK, 51))


@settings(max_examples=20)
@given(
    st.lists(st.tuples(st.integers(0, 59), st.integers(1, 25)), min_size=1, max_size=3),
    st.sampled_from([24, 40, 512]),
    st.sampled_from([208, 40_000]),
    st.none() | st.integers(0, 99),
)
def test_embeddings_of_tokens_are_as_good_as_the_tokens(
    tiny: CausalModel,
    plain: PreTrainedModel,
    places: list[tuple[int, int]],
    step_tokens: int,
    cache_tokens: int,
    seed: int | None,
) -> None:
    prompt = _prompt(3, 60)
    table = tiny.packed.module.get_input_embeddings().weight
    blanked, inserts = list(prompt), []
    for place, count in places:
        inserts.append(Insert(place, table[torch.tensor(prompt[place : place + count])]))
        blanked[place : place + count] = [0] * len(prompt[place : place + count])
    driver = Driver(tiny, cache_tokens, 5, step_tokens)
    others = [driver.ask(plan(_prompt(i, 20 + i), 10)) for i in range(3)]
    asked = driver.ask(plan(blanked, 8, seed=seed, inserts=inserts))
    driver.finish()
    tokens, logprobs = computed(plain, prompt, 8, seed=seed)
    assert asked.tokens() == tokens
    assert asked.logprobs() == pytest.approx(logprobs, abs=1e-4)
    for one in others:
        _is_as_alone(plain, one, 10, None)


def test_embeddings_that_are_no_tokens(tiny: CausalModel, plain: PreTrainedModel) -> None:
    made = torch.Generator().manual_seed(3)
    inserts = [Insert(5, torch.randn(20, WIDTH, generator=made)), Insert(40, torch.randn(3, WIDTH, generator=made))]
    driver = Driver(tiny, step_tokens=48)
    asked = driver.ask(plan(_prompt(1, 60), 8, inserts=inserts, attachments=[_attachment("steering")]))
    other = driver.ask(plan(_prompt(1, 60), 8))
    driver.finish()
    _is_as_alone(plain, asked, 8, None)
    _is_as_alone(plain, other, 8, None)
    assert asked.tokens() != other.tokens()


@given(st.integers(0, 40), st.integers(1, 20), st.integers(0, 60), st.integers(1, 30), st.integers(-9, 9))
def test_the_part_of_an_insert(place: int, count: int, start: int, length: int, shift: int) -> None:
    vectors = torch.arange(count, dtype=torch.float32)[:, None]
    found = Insert(place, vectors).within(start, start + length, shift)
    inside = [at for at in range(place, place + count) if start <= at < start + length]
    assert (found is None) is (not inside)
    if found is not None:
        assert found.place == inside[0] + shift
        assert found.vectors[:, 0].tolist() == [at - place for at in inside]


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("at", [10, 33])
def test_one_that_raises_fails_its_step_and_no_more(
    tiny: CausalModel, plain: PreTrainedModel, inside: bool, at: int, caplog: pytest.LogCaptureFixture
) -> None:
    driver = Driver(tiny)
    asked = driver.ask(plan(_prompt(1, 30), 20, attachments=[_attachment("steering"), Refusing(at, inside=inside)]))
    while asked.error is None:
        driver.step()
    assert (asked.error.code, asked.error.status) == ("internal_error", 500)
    assert "mistake" not in asked.error.message
    assert "no such layer" not in asked.error.message
    assert "step failed" in caplog.text
    assert len(asked.tokens()) == max(0, at - 30 + 1)
    assert not any(layer._forward_hooks for layer in tiny.packed.module.modules())
    later = driver.alone(plan(_prompt(1, 30), 5))
    _is_as_alone(plain, later, 5, None)


def test_who_is_in_the_step_of_one_that_raises(tiny: CausalModel, plain: PreTrainedModel) -> None:
    """Rows of the same step fail with it; those that wait go on."""
    driver = Driver(tiny, max_batch=2)
    beside = driver.ask(plan(_prompt(2, 30), 9))
    bad = driver.ask(plan(_prompt(1, 30), 9, attachments=[Refusing(32, inside=True)]))
    waiting = driver.ask(plan(_prompt(3, 30), 9))
    driver.finish()
    assert [one.error is not None for one in (beside, bad, waiting)] == [True, True, False]
    _is_as_alone(plain, waiting, 9, None)

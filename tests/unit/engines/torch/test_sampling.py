import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from terascope.core.errors import EngineNan
from terascope.engines.torch import sampling
from terascope.engines.torch.sampling import Chooser, Draw, Sampling, exponentials, sample, score

SIZE = 50


def _logits(rows: int = 1, size: int = SIZE, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)) * 3


def _chooser(prompt: Sequence[int] = (), ends: Sequence[int] = (), **rules: Any) -> Chooser:
    return Chooser(Sampling(**rules), prompt, ends, None)


def _tokens(logits: torch.Tensor, choosers: Sequence[Chooser], min_tokens: int = 0) -> list[int]:
    draws = [Draw(chooser, min_tokens) for chooser in choosers]
    sample(logits, draws)
    assert [draw.error for draw in draws] == [None] * len(draws)
    return [draw.info.token for draw in draws]


def _many(logits: torch.Tensor, count: int, **rules: Any) -> list[int]:
    """Draw `count` tokens from one distribution, each with a seed of its own."""
    return _tokens(logits.expand(count, -1), [_chooser(seed=seed, **rules) for seed in range(count)])


def test_random_numbers_are_exponential_and_depend_on_every_argument() -> None:
    several = [exponentials(seed, choice, at, 50) for seed in range(10) for choice in range(5) for at in range(10)]
    numbers = torch.cat(several).sort().values
    assert len(set(numbers.tolist())) > 0.999 * len(numbers)
    assert numbers[0] > 0
    assert float(numbers.mean()) == pytest.approx(1, abs=0.02)
    for share in (0.1, 0.5, 0.9):
        assert float(numbers[int(share * len(numbers))]) == pytest.approx(-math.log(1 - share), rel=0.05)


def test_random_numbers_are_the_same_everywhere() -> None:
    assert exponentials(7, 0, 0, 3).tolist() == [0.20711854100227356, 2.5487375259399414, 1.4490543603897095]
    assert torch.equal(exponentials(-1, 0, 0, 9), exponentials(2**64 - 1, 0, 0, 9))
    assert torch.equal(exponentials(5, 1, 2, 100), exponentials(5, 1, 2, 1000)[:100])


def test_noise_of_rounding_turns_no_draw() -> None:
    """As much as the shape of a batch changes logits in float32; a place in a cumulative distribution would turn."""
    logits = _logits(1, 50_000).expand(64, -1)
    noise = torch.randn(64, 50_000, generator=torch.Generator().manual_seed(5)) * 2e-5
    choosers = [_chooser(seed=seed) for seed in range(64)]
    assert _tokens(logits, choosers) == _tokens(logits + noise, choosers)


def test_draws_follow_the_model() -> None:
    logits = _logits(size=12)
    count = 20_000
    found = torch.bincount(torch.tensor(_many(logits, count)), minlength=12)
    expected = logits[0].softmax(-1) * count
    assert float(((found - expected) ** 2 / expected).sum()) < 35  # chi-square, 11 degrees: 35 is p = 0.0003


def test_temperature_follows_the_model_too() -> None:
    logits = _logits(size=6)
    count = 20_000
    found = torch.bincount(torch.tensor(_many(logits, count, temperature=2.5)), minlength=6)
    expected = (logits[0] / 2.5).softmax(-1) * count
    assert float(((found - expected) ** 2 / expected).sum()) < 25


@pytest.mark.parametrize("rules", [{"temperature": 0.0}, {"top_k": 1}, {"top_p": 0.0}, {"temperature": 1e-6}])
def test_greedy(rules: dict[str, Any]) -> None:
    logits = _logits()
    assert set(_many(logits, 20, **rules)) == {int(logits.argmax())}


@pytest.mark.parametrize("size", [SIZE, 3000])
@pytest.mark.parametrize(
    ("rules", "warpers"),
    [
        ({"top_k": 5}, [TopKLogitsWarper(5)]),
        ({"top_k": 40}, [TopKLogitsWarper(40)]),
        ({"top_p": 0.7}, [TopPLogitsWarper(0.7)]),
        ({"top_p": 0.999}, [TopPLogitsWarper(0.999)]),
        ({"min_p": 0.05}, [MinPLogitsWarper(0.05)]),
        ({"top_k": 10, "top_p": 0.5}, [TopKLogitsWarper(10), TopPLogitsWarper(0.5)]),
        ({"min_p": 0.01, "top_p": 0.8}, [MinPLogitsWarper(0.01), TopPLogitsWarper(0.8)]),
        ({"temperature": 0.5, "top_p": 0.9}, [TemperatureLogitsWarper(0.5), TopPLogitsWarper(0.9)]),
    ],
)
@pytest.mark.parametrize("candidates", [8, 1024])
def test_restrictions_are_those_of_transformers(
    rules: dict[str, Any], warpers: list[LogitsProcessor], size: int, candidates: int
) -> None:
    logits = _logits(3, size)
    rule = Sampling(**rules)
    found = sampling._restricted(logits / rule.temperature, [rule] * 3, candidates)
    expected = logits
    for warper in warpers:
        expected = warper(torch.zeros(3, 0, dtype=torch.long), expected)
    assert torch.equal(found.isfinite(), expected.isfinite())
    torch.testing.assert_close(found.softmax(-1), expected.softmax(-1))


def test_rows_with_different_rules_are_restricted_each_by_its_own() -> None:
    logits = _logits(1, 2000).expand(4, -1)
    rules = [Sampling(top_k=3), Sampling(top_p=0.9), Sampling(min_p=0.5), Sampling(top_k=1500, top_p=0.9999)]
    together = sampling._restricted(logits, rules, 64)
    for row, rule in zip(together, rules, strict=True):
        assert torch.equal(row, sampling._restricted(logits[:1], [rule], 64)[0])


def test_repetition_penalty_is_that_of_transformers() -> None:
    logits, prompt = _logits(), [3, 4, 5, 3]
    expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([prompt]), logits.clone())
    chooser = _chooser(prompt, repetition_penalty=1.7)
    found = logits[0].clone()
    chooser.adjust(found, 0)
    torch.testing.assert_close(found, expected[0])


def test_presence_and_frequency_count_the_answer_alone() -> None:
    logits = torch.zeros(SIZE)
    chooser = _chooser([1, 2], presence_penalty=0.5, frequency_penalty=0.25)
    for token in (7, 7, 9):
        chooser.took(token)
    found = logits.clone()
    chooser.adjust(found, 0)
    expected = logits.clone()
    expected[7], expected[9] = -1.0, -0.75
    torch.testing.assert_close(found, expected)


def test_bias_decides() -> None:
    logits = _logits()
    assert set(_many(logits, 50, bias=((17, 100.0),))) == {17}
    worst = int(logits.argmax())
    assert worst not in _many(logits, 200, bias=((worst, -100.0),))


def test_an_end_cannot_come_before_min_tokens() -> None:
    logits = _logits()
    best = int(logits.argmax())
    chooser = _chooser(ends=[best], temperature=0)
    assert _tokens(logits, [chooser], min_tokens=1) != [best]
    chooser.took(1)
    assert _tokens(logits, [chooser], min_tokens=1) == [best]


@settings(max_examples=40)
@given(st.integers(0, 2**63 - 1), st.integers(0, 31), st.integers(2, 32))
def test_neighbours_change_nothing(seed: int, place: int, rows: int) -> None:
    logits = _logits(rows, 200, seed % 1000)
    place %= rows
    rules: list[dict[str, Any]] = [
        {}, {"temperature": 0.7, "top_p": 0.8}, {"top_k": 7}, {"temperature": 0}, {"min_p": 0.1}
    ]  # fmt: skip
    choosers = [_chooser(seed=seed + i, **rules[i % len(rules)]) for i in range(rows)]
    assert _tokens(logits, choosers)[place] == _tokens(logits[place : place + 1], [choosers[place]])[0]


def test_what_is_not_a_number_fails_its_row_alone() -> None:
    logits = _logits(4)
    alone = _tokens(logits, [_chooser(seed=i) for i in range(4)])
    for bad in (math.nan, math.inf):
        broken = logits.clone()
        broken[1, 3] = bad
        draws = [Draw(_chooser(seed=i, logprobs=1)) for i in range(4)]
        sample(broken, draws)
        assert isinstance(draws[1].error, EngineNan)
        assert [draw.info.token for i, draw in enumerate(draws) if i != 1] == [alone[0], *alone[2:]]


def test_forbidden_logits_are_no_error_and_never_come() -> None:
    logits = _logits()
    logits[0, 10:] = -math.inf
    assert max(_many(logits, 500)) < 10
    assert max(_many(logits, 100, top_p=0.99, temperature=5.0)) < 10


def test_logprobs_are_the_models_own() -> None:
    logits = _logits(2)
    draws = [Draw(_chooser(seed=1, temperature=0.3, logprobs=3, bias=((4, 100.0),))), Draw(_chooser(seed=1))]
    sample(logits, draws)
    info = draws[0].info
    own = logits.log_softmax(-1)
    assert info.token == 4
    assert info.logprob == pytest.approx(float(own[0, 4]), abs=1e-5)
    assert [token for token, _ in info.top] == logits[0].topk(3).indices.tolist()
    assert [value for _, value in info.top] == pytest.approx(own[0].topk(3).values.tolist(), abs=1e-5)
    assert draws[1].info.logprob is None


def test_score() -> None:
    logits = _logits(3)
    infos = score(logits, [1, 2, 3], 0)
    assert [info.logprob for info in infos] == pytest.approx(
        [float(logits[i].log_softmax(-1)[i + 1]) for i in range(3)]
    )
    assert [info.top for info in infos] == [(), (), ()]
    assert len(score(logits, [1, 2, 3], 99)[0].top) == SIZE


def test_the_choice_and_the_position_make_other_draws() -> None:
    logits = _logits() / 10
    assert len(set(_tokens(logits.expand(10, -1), [_chooser(seed=3, choice=i) for i in range(10)]))) > 4
    chooser = _chooser(seed=3)
    found = []
    for _ in range(10):
        found += _tokens(logits, [chooser])
        chooser.took(found[-1])
    assert len(set(found)) > 4

"""What a plan costs before it is run: never less than it takes, and never less for asking more."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.core.config import InternalsConfig
from terascope.core.errors import BadRequest
from terascope.core.prices import Price
from terascope.internals.arrays import DType
from terascope.internals.limits import BYTES_PER_MICRO, GRADIENT_SHARE, Cost, Limits, cost_of
from terascope.internals.outputs import capture_outputs
from terascope.internals.plan import TracePlan
from terascope.internals.tokens import positions

from .asking import read
from .shapes import LLAMA

LENGTHS = {"clean": 6, "other": 4}
POST = "blocks.1.residual.post"
OPERATIONS: list[dict[str, Any]] = [
    {"capture": "blocks.*.residual.post"},
    {"capture": "blocks.0.attention.probabilities", "name": "all"},
    {"capture": "norm", "tokens": "last", "reduce": {"logit_lens": 5}},
    {"capture": "norm", "tokens": "-3:2", "name": "some"},
    {"capture": "embeddings", "tokens": {"text": "is"}, "reduce": "mean"},
    {"capture": "logits", "tokens": [0, 1], "units": [1, 2, 3]},
    {"add": POST, "value": [1.0] * 12},
    {"patch": POST, "in": "clean", "from": "other"},
]
some = st.lists(st.sampled_from(range(len(OPERATIONS))), unique=True)
lengths = st.fixed_dictionaries({"clean": st.integers(2, 40), "other": st.integers(2, 40)})


def cost(plan: TracePlan, of: dict[str, int] = LENGTHS) -> Cost:
    return cost_of(plan, LLAMA, of, DType.F32)


def no_less(one: Cost, other: Cost) -> bool:
    return all(a >= b for a, b in zip(dataclasses.astuple(one), dataclasses.astuple(other), strict=True))


def gradient(**fields: Any) -> dict[str, Any]:
    return {"of": {"logit": 3}, "with_respect_to": ["embeddings"]} | fields


def test_a_capture_costs_its_bytes_and_its_tokens() -> None:
    one = cost(read({"capture": "blocks.*.residual.post"}))
    assert one == Cost(
        prompts=2,
        operations=8,
        prompt_tokens=10,
        captured_bytes=10 * 4 * 12 * 4,
        memory_bytes=6 * 4 * 12 * 4,
    )
    halved = cost(read({"capture": "blocks.*.residual.post"}, dtype="BF16"))
    assert halved.captured_bytes * 2 == one.captured_bytes


def test_steps_of_the_answer_are_captured_too_but_its_last_token_is_not() -> None:
    one = cost(read({"capture": "norm", "in": "clean"}, max_tokens=4))
    assert (one.output_tokens, one.captured_bytes) == (8, (6 + 3) * 12 * 4)
    assert cost(read({"capture": "norm", "in": "clean", "steps": [2]}, max_tokens=4)).captured_bytes == 12 * 4


def test_gradient_tokens_are_counted_for_each_pass() -> None:
    integrated = gradient(method="integrated_gradients", steps=7)
    assert cost(read(gradient=gradient())).gradient_tokens == 10
    assert cost(read(gradient=integrated)).gradient_tokens == 70
    assert cost(read(gradient=gradient(method="direct_logit"))).gradient_tokens == 0
    assert cost(read(gradient=gradient())).prompt_tokens == 0  # the way there is part of the pass
    assert cost(read({"capture": "norm"}, gradient=gradient())).prompt_tokens == 10


def test_what_was_sent_is_counted_once() -> None:
    steer = {"add": "blocks.*.residual.post", "value": "v"}
    plan = read(steer, {"project_out": POST, "directions": [1.0] * 12}, arrays={"v": [1.0] * 12})
    assert cost(plan).supplied_bytes == 2 * 12 * 4


def test_what_rows_take_from_each_other_needs_memory() -> None:
    alone, patched = read({"scale": POST, "by": 1.0}), read({"patch": POST, "in": "clean", "from": "other"})
    assert cost(patched).memory_bytes - cost(alone).memory_bytes == LENGTHS["other"] * 12 * 4


@given(
    st.lists(st.sampled_from(range(len(OPERATIONS))), unique=True),
    lengths,
    lengths,
    st.integers(0, 9),
    st.integers(0, 9),
)
def test_longer_prompts_and_answers_never_cost_less(
    chosen: list[int], one: dict[str, int], other: dict[str, int], tokens: int, more: int
) -> None:
    longer = {name: max(one[name], other[name]) for name in one}
    operations = [OPERATIONS[number] for number in chosen]
    few = read(*operations, gradient=gradient(), max_tokens=tokens)
    many = read(*operations, gradient=gradient(), max_tokens=tokens + more)
    assert no_less(cost(few, longer), cost(few, one))
    assert no_less(cost(many, one), cost(few, one))


@given(some, st.data(), lengths)
def test_more_operations_never_cost_less(chosen: list[int], data: st.DataObject, of: dict[str, int]) -> None:
    fewer = [number for number in chosen if data.draw(st.booleans())]
    more, less = (read(*(OPERATIONS[number] for number in numbers)) for numbers in (chosen, fewer))
    assert no_less(cost(more, of), cost(less, of))
    assert cost(more, of).micro(Price(2, 8)) >= cost(less, of).micro(Price(2, 8))


@given(st.sampled_from([one for one in OPERATIONS if "capture" in one]), st.integers(2, 12))
def test_no_capture_is_larger_than_was_said(operation: dict[str, Any], length: int) -> None:
    plan = read(operation, prompts=[{"name": "clean", "text": "a"}])
    pieces = [b" is"] * length
    real = sum(
        spec.nbytes
        for one in plan.rows[0].captures
        for spec in capture_outputs(one, LLAMA, len(positions(one.where.tokens, pieces)), length, DType.F32)
    )
    assert real <= cost(plan, {"clean": length}).captured_bytes


def test_the_price_of_a_plan() -> None:
    one = Cost(prompt_tokens=10, output_tokens=3, gradient_tokens=5, captured_bytes=BYTES_PER_MICRO + 1)
    assert one.micro(Price(2, 7)) == 2 * (10 + GRADIENT_SHARE * 5) + 7 * 3 + 2
    assert Cost(captured_bytes=10**9).micro(Price(2, 7)) == pytest.approx(0.244e6, rel=0.01)


def test_limits_as_they_are_told() -> None:
    """The usual ones are those of the configuration; what is no limit is not taken for one."""
    assert dataclasses.asdict(Limits()) == dataclasses.asdict(InternalsConfig())
    told: dict[str, object] = {"prompts": 3, "captured_bytes": -1, "memory_bytes": "9", "output_tokens": True, "x": 1}
    assert Limits.of(told) == Limits(prompts=3)
    assert Limits.of(dataclasses.asdict(InternalsConfig(prompts=0))) == Limits(prompts=0)


@pytest.mark.parametrize("name", [one.name for one in dataclasses.fields(Limits)])
def test_each_limit_is_kept_and_says_what_to_do(name: str) -> None:
    limits = dataclasses.replace(Limits(), **{name: 1_000})
    limits.check(Cost(**{name: 1_000}))
    with pytest.raises(BadRequest, match=rf"1,001 {name.replace('_', ' ')}, and 1,000 are allowed; \w+") as caught:
        limits.check(Cost(**{name: 1_001}))
    assert caught.value.param


def test_a_capture_of_a_million_tokens_is_over_the_limits() -> None:
    plan = read({"capture": "blocks.*.residual.post"}, {"capture": "blocks.*.attention.probabilities"})
    with pytest.raises(BadRequest, match="are allowed"):
        Limits().check(cost(plan, {"clean": 1_000_000, "other": 1}))

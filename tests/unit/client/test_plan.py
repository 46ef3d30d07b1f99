"""The SDK's plans are the wire's: operations as functions, arrays attached, fields that do not drift."""

import base64
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch

from terascope.client import TraceArray, operations
from terascope.client.operations import Where, add, capture, clamp, edit_feature, gradient, patch, scale, set_
from terascope.client.plan import PlanFields, Prompts, checked, plan_of
from terascope.core.errors import BadRequest
from terascope.internals.packing import unpack
from terascope.internals.reading import read_plan
from terascope.internals.shape import ModelShape
from terascope.protocol.traces import OPERATIONS, GradientFields, Placed, TraceRequest

SITE = "blocks.0.residual.post"
OWN = {"version", "model", "prompts", "operations", "safetensors", "format", "stream", "dry_run"}
"""Fields of the wire that are no keyword of `client.trace`: named arguments, or set by the SDK."""


def function_of(verb: str) -> Callable[..., Any]:
    return getattr(operations, f"{verb}_" if verb == "set" else verb)  # type: ignore[no-any-return]


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    named = inspect.signature(function).parameters
    return {name: one for name, one in named.items() if one.kind is not inspect.Parameter.VAR_KEYWORD}


@pytest.mark.parametrize("verb", OPERATIONS)
def test_an_operation_has_the_fields_of_the_wire(verb: str) -> None:
    fields = OPERATIONS[verb].model_fields
    given = parameters(function_of(verb))
    sites, *others = given
    assert sites == "sites"
    assert set(others) == set(fields) - set(Placed.model_fields) - {verb}
    needed = {name for name in others if given[name].default is inspect.Parameter.empty}
    assert needed == {name for name in others if fields[name].is_required()}


def test_the_part_of_a_site_has_the_fields_of_the_wire() -> None:
    assert set(get_type_hints(Where)) == set(Placed.model_fields)


def test_a_gradient_has_the_fields_of_the_wire() -> None:
    assert set(parameters(gradient)) == set(GradientFields.model_fields)


def test_a_plan_has_the_fields_of_the_wire() -> None:
    assert set(get_type_hints(PlanFields)) == set(TraceRequest.model_fields) - OWN


def test_every_operation_is_one() -> None:
    made = [
        capture(SITE, name="x", reduce={"logit_lens": 2}, tokens="last"),
        set_(SITE, [1.0, 2.0]),
        add(SITE, [1.0, 2.0], by=2.0, steps="all"),
        scale(SITE, 0.5, in_="0"),
        operations.ablate(SITE, with_="resample", from_="1", in_="0"),
        operations.project_out(SITE, [[1.0, 0.0]]),
        clamp(SITE, min=-1.0, units=[0]),
        patch(SITE, "1", in_="0", tokens=0, from_tokens=1),
        edit_feature(SITE, {"encoder": [[1.0], [0.0]], "decoder": [[1.0, 0.0]]}, 0, to=1.0),
    ]
    plan = plan_of("m", ["a", "b"], made, {"gradient": gradient({"logit": 3}, SITE, in_="1")})
    assert [next(iter(one)) for one in made] == list(OPERATIONS)
    read_plan(plan, ModelShape(layers=1, width=2, heads=1, head_width=2, vocabulary=8))


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ({"x": "a", "y": "b"}, [{"name": "x", "text": "a"}, {"name": "y", "text": "b"}]),
        ([{"name": "x", "tokens": [1]}, "b"], [{"name": "x", "tokens": [1]}, "b"]),
    ],
)
def test_prompts_in_every_form(prompts: Prompts, expected: list[object]) -> None:
    sent = plan_of("m", prompts, [], {}).model_dump(exclude_unset=True)["prompts"]
    assert sent == expected


def attached(plan: TraceRequest) -> dict[str, list[float]]:
    assert plan.safetensors is not None
    return {name: one.numbers() for name, one in unpack(base64.b64decode(plan.safetensors))[0].items()}


def test_arrays_are_attached_once_and_called_by_name() -> None:
    vector, other = np.array([1.0, 2.0], "f4"), torch.tensor([3.0, 4.0])
    made = [add(SITE, vector), add(SITE, vector, by=2.0), add(SITE, other), add(SITE, TraceArray.of("x", vector))]
    plan = plan_of("m", "a", made, {})
    names = [one.value for one in plan.operations]  # type: ignore[union-attr]
    assert names[0] == names[1]
    assert [attached(plan)[str(name)] for name in names] == [[1, 2], [1, 2], [3, 4], [1, 2]]
    assert len(attached(plan)) == 3


def test_arrays_inside_of_reductions_and_gradients() -> None:
    reduce = {"project": {"directions": np.ones((1, 2)), "center": torch.zeros(2)}}
    dot = gradient({"dot": {"site": SITE, "direction": np.array([5.0, 6.0])}}, SITE)
    plan = plan_of("m", "a", [capture(SITE, reduce=reduce)], {"gradient": dot})
    assert sorted(attached(plan).values()) == [[0, 0], [1, 1], [5, 6]]


def test_arrays_by_name() -> None:
    fields = {"arrays": {"attached-0": np.array([7.0]), "listed": [1.0, 2.0]}}
    plan = plan_of("m", "a", [add(SITE, np.array([8.0])), add(SITE, "attached-0"), add(SITE, "listed")], fields)
    assert attached(plan) == {"attached-0": [7], "attached-1": [8]}
    assert plan.arrays == {"listed": [1.0, 2.0]}


def test_numbers_and_indices_of_numpy_are_numbers() -> None:
    made = capture(SITE, tokens=np.array([0, 2]), heads=np.int64(1))  # type: ignore[arg-type]
    plan = plan_of("m", "a", [made, scale(SITE, np.float32(0.5))], {})  # type: ignore[arg-type]
    first, second = plan.operations
    assert (first.tokens, first.heads, second.by) == ([0, 2], 1, 0.5)  # type: ignore[union-attr]
    assert plan.safetensors is None


def test_many_short_lived_arrays_are_not_taken_for_each_other() -> None:
    made = [add(SITE, np.array([float(number)])) for number in range(50)]
    plan = plan_of("m", "a", made, {})
    assert [attached(plan)[str(one.value)] for one in plan.operations] == [[n] for n in range(50)]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        ({"captrue": SITE}, "did you mean"),
        ({"add": SITE, "value": np.array([1j])}, "complex128"),
        ({"scale": SITE}, "by"),
    ],
)
def test_what_is_no_plan_is_told(operation: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        plan_of("m", "a", [operation], {})


def test_a_field_that_is_unknown_is_told_with_the_nearest() -> None:
    with pytest.raises(BadRequest, match="max_tokens"):
        plan_of("m", "a", [], {"max_token": 3})


@pytest.mark.parametrize("name", ["format", "stream", "dry_run", "safetensors"])
def test_what_the_sdk_sets_is_refused_with_what_to_do(name: str) -> None:
    with pytest.raises(BadRequest, match="is set by the SDK; ") as refused:
        checked({name: True})
    assert refused.value.param == name

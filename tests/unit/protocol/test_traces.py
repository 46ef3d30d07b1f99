"""The wire of traces: what is taken, and which field is named when something is wrong."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.core.errors import BadRequest
from terascope.protocol.openai import Json
from terascope.protocol.parse import parse
from terascope.protocol.trace_results import TraceResult
from terascope.protocol.traces import OPERATIONS, CaptureFields, Placed, TracePrompt, TraceRequest


def read(**fields: Any) -> TraceRequest:
    return parse(TraceRequest, orjson.dumps({"model": "m", "prompts": ["a"]} | fields))


EXAMPLES: dict[str, Json] = {
    "capture": {"reduce": {"logit_lens": 5}, "tokens": "last"},
    "set": {"value": [1, 2.5], "tokens": {"text": "Paris"}},
    "add": {"value": "steering", "by": 2},
    "scale": {"by": 0},
    "ablate": {"with": "resample", "from": "other", "heads": [0, -1]},
    "project_out": {"directions": [[1.0], [2.0]]},
    "clamp": {"max": 1},
    "patch": {"from": "other", "in": ["clean"], "tokens": "1:3"},
    "edit_feature": {"autoencoder": {"encoder": "e", "decoder": "d"}, "feature": 7, "to": 0},
}


@pytest.mark.parametrize("verb", OPERATIONS)
def test_each_operation_is_told_by_its_verb(verb: str) -> None:
    (one,) = read(operations=[{verb: "norm", **EXAMPLES[verb]}]).operations
    assert type(one) is OPERATIONS[verb]
    again = TraceRequest.model_validate({"model": "m", "prompts": ["a"], "operations": [one]})
    assert again.operations == [one]


def test_what_is_left_out() -> None:
    request = read()
    assert (request.version, request.max_tokens, request.temperature, request.format) == (1, 0, 0.0, "json")
    assert (request.operations, request.gradient, request.dry_run) == ([], None, False)


def test_prompts_are_texts_or_objects() -> None:
    first, second = read(prompts=["a", {"name": "b", "tokens": [1]}]).prompts
    assert first == "a"
    assert isinstance(second, TracePrompt)
    assert (second.name, second.tokens) == ("b", [1])


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"promts": 1}, None, "there is no field `promts`; did you mean `prompts`"),
        ({"version": 2}, "version", "must be 1"),
        ({"prompts": []}, "prompts", "at least 1"),
        ({"prompts": [{"text": "a", "tokens": [1]}]}, "prompts[0]", "exactly one of `text`, `tokens` or `messages`"),
        ({"prompts": [{"nmae": "a", "text": "a"}]}, "prompts[0]", "no field `nmae`; did you mean `name`"),
        ({"prompts": [{"name": "a/b", "text": "a"}]}, "prompts[0].name", "match pattern"),
        ({"prompts": [{"tokens": [1, -1]}]}, "prompts[0].tokens[1]", "greater than or equal to 0"),
        ({"operations": [{"captur": "norm"}]}, "operations[0]", "not `captur`; did you mean `capture`"),
        ({"operations": [{}]}, "operations[0]", "must have one of `capture`, `set`"),
        ({"operations": [3]}, "operations[0]", "must have one of"),
        ({"operations": [{"set": "a", "add": "b"}]}, "operations[0]", "not `set` and `add`"),
        ({"operations": [{"capture": "norm", "tokns": 1}]}, "operations[0]", "did you mean `tokens`"),
        ({"operations": [{"capture": "norm", "tokens": 1.5}]}, "operations[0].tokens", 'must be "all", "last"'),
        ({"operations": [{"capture": "norm", "tokens": True}]}, "operations[0].tokens", 'must be "all", "last"'),
        ({"operations": [{"capture": "norm", "tokens": [0, "a"]}]}, "operations[0].tokens[1]", "valid integer"),
        ({"operations": [{"capture": "norm", "reduce": "men"}]}, "operations[0].reduce", "'norm', not 'men'"),
        ({"operations": [{"capture": "norm", "reduce": {"logit_len": 1}}]}, "operations[0].reduce", "`logit_lens`"),
        ({"operations": [{"capture": "norm", "reduce": {}}]}, "operations[0].reduce", "exactly one of `mean`"),
        ({"operations": [{"scale": "norm"}]}, "operations[0].by", "required"),
        ({"operations": [{"scale": "norm", "by": "2"}]}, "operations[0].by", "valid number"),
        ({"operations": [{"set": "norm", "value": [[1, "a"]]}]}, "operations[0].value[0][1]", "valid number"),
        ({"operations": [{"patch": "norm"}]}, "operations[0].from", "required"),
        ({"operations": [{"ablate": "norm", "with": "one"}]}, "operations[0].with", "'resample', not 'one'"),
        ({"gradient": {"with_respect_to": ["norm"]}}, "gradient.of", "required"),
        ({"gradient": {"of": {}, "with_respect_to": ["norm"]}}, "gradient.of", "exactly one of `logit`"),
        ({"gradient": {"of": {"logit": 1}, "with_respect_to": []}}, "gradient.with_respect_to", "at least 1"),
        ({"max_tokens": -1}, "max_tokens", "greater than or equal to 0"),
        ({"format": "pickle"}, "format", "must be 'json', 'safetensors' or 'file', not 'pickle'"),
    ],
    ids=repr,
)
def test_what_is_wrong_is_named(fields: Json, param: str | None, said: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read(**fields)
    assert caught.value.param == param
    assert said in caught.value.message


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(number: str) -> None:
    body = f'{{"model": "m", "prompts": ["a"], "operations": [{{"scale": "norm", "by": {number}}}]}}'
    with pytest.raises(BadRequest):
        parse(TraceRequest, body.encode())


json = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.sampled_from(sorted(OPERATIONS)), st.sampled_from(["tokens", "steps", "heads", "units", "in", "reduce"]), json
)
def test_anything_else_in_a_field_is_refused_as_such(verb: str, field: str, value: object) -> None:
    try:
        (one,) = read(operations=[{verb: "norm", **EXAMPLES[verb], field: value}]).operations
    except BadRequest as error:
        assert (error.param or "").startswith("operations[0]")  # noqa: PT017 - most are refused, some are right
    else:
        assert isinstance(one, Placed)


def test_unknown_words_are_not_repeated_when_they_are_long() -> None:
    with pytest.raises(BadRequest) as caught:
        read(format="x" * 100)
    assert "x" * 100 not in caught.value.message


def test_the_schema_names_every_operation() -> None:
    schema = TraceRequest.model_json_schema()
    assert {kind.__name__ for kind in OPERATIONS.values()} <= schema["$defs"].keys()
    assert "in" in schema["$defs"][CaptureFields.__name__]["properties"]


def test_an_answer_is_read_back() -> None:
    row = {"name": "a", "tokens": [1], "arrays": {"norm": {"dtype": "F32", "shape": [1], "data": "AAAAAA=="}}}
    said = {"id": "trace_1", "created": 1, "model": "m@1", "rows": [row], "usage": {"prompt_tokens": 1}}
    assert TraceResult.model_validate(said).rows[0].arrays["norm"].shape == [1]

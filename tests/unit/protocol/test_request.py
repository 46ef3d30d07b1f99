"""What Terascope reads of a request, and that it changes nothing else."""

import base64
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from terascope.core.errors import BadRequest
from terascope.core.models import Feature, Mode
from terascope.protocol.embeds import count
from terascope.protocol.request import ModelRequest, read_object

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def read(**fields: Any) -> ModelRequest:
    return ModelRequest.read("chat/completions", Mode.QUERY, json.dumps(fields).encode())


@given(
    st.dictionaries(st.text().filter(lambda name: name not in ("model", "stream", "stream_options")), JSON, max_size=5)
)
def test_unknown_fields_are_forwarded_as_they_came(fields: dict[str, Any]) -> None:
    forwarded = json.loads(read(model="a", **fields).body_for("served"))
    assert forwarded == fields | {"model": "served"}


def test_usage_is_always_asked_of_a_stream() -> None:
    assert json.loads(read(model="a", stream=True).body_for("a"))["stream_options"] == {"include_usage": True}


def test_other_stream_options_stay() -> None:
    sent = json.loads(read(model="a", stream=True, stream_options={"continuous_usage_stats": True}).body_for("a"))
    assert sent["stream_options"] == {"continuous_usage_stats": True, "include_usage": True}


def test_nothing_is_invented_for_a_whole_answer() -> None:
    assert json.loads(read(model="a", messages=[]).body_for("a")) == {"model": "a", "messages": []}


def test_keep_usage_is_the_clients_own_wish() -> None:
    assert not read(model="a", stream=True).keep_usage
    assert read(model="a", stream=True, stream_options={"include_usage": True}).keep_usage


def test_what_cannot_stream_is_not_asked_to() -> None:
    request = ModelRequest.read("tokenize", Mode.QUERY, b'{"model": "a", "stream": true, "prompt": "b"}')
    assert not request.stream
    assert json.loads(request.body_for("a")) == {"model": "a", "stream": True, "prompt": "b"}


def test_a_stream_of_embeddings_tells_its_usage_unasked() -> None:
    request = ModelRequest.read("embeddings", Mode.EMBED, b'{"model": "a", "stream": true, "input": "b"}')
    assert (request.stream, request.keep_usage) == (True, True)
    assert json.loads(request.body_for("a")) == {"model": "a", "stream": True, "input": "b"}


@pytest.mark.parametrize(
    ("options", "need"),
    [
        ({"layer": 0}, Feature.EMBEDDING_LAYERS),
        ({"pooling": "mean"}, Feature.EMBEDDING_LAYERS),
        ({"truncate": "end"}, Feature.EMBEDDING_OPTIONS),
        ({"windows": {"size": 3}}, Feature.EMBEDDING_OPTIONS),
        ({"stream": True}, Feature.EMBEDDING_OPTIONS),
    ],
)
def test_options_of_embeddings_need_an_engine_that_knows_them(options: dict[str, Any], need: Feature) -> None:
    body = {"model": "a", "input": "b", **options}
    request = ModelRequest.read("embeddings", Mode.EMBED, json.dumps(body).encode())
    assert request.needs() == {need}
    plain = {"model": "a", "input": "b", "encoding_format": "base64", "stream": False}
    assert ModelRequest.read("embeddings", Mode.EMBED, json.dumps(plain).encode()).needs() == frozenset()
    cut = json.dumps({**plain, "dimensions": 8}).encode()
    assert ModelRequest.read("embeddings", Mode.EMBED, cut).needs() == {Feature.DIMENSIONS}


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({"n": 2, "temperature": 0}, {Feature.SEVERAL_GREEDY}),
        ({"n": 2, "temperature": 0.0}, {Feature.SEVERAL_GREEDY}),
        ({"n": 2, "temperature": False}, set()),
        ({"n": 2}, set()),
        ({"n": 1, "temperature": 0}, set()),
        ({"tool_choice": "required", "tools": [{}]}, {Feature.TOOLS, Feature.ENFORCED_TOOLS}),
        ({"tool_choice": {"type": "function"}, "tools": [{}]}, {Feature.TOOLS, Feature.ENFORCED_TOOLS}),
        ({"tool_choice": "auto", "tools": [{}]}, {Feature.TOOLS}),
    ],
)
def test_what_not_every_engine_can(fields: dict[str, Any], needs: set[Feature]) -> None:
    body = json.dumps({"model": "a", "messages": [], **fields}).encode()
    assert ModelRequest.read("chat/completions", Mode.QUERY, body).needs() == needs


@pytest.mark.parametrize(
    ("fields", "choices"),
    [
        ({}, 1),
        ({"n": 3}, 3),
        ({"n": None, "prompt": "a"}, 1),
        ({"n": True, "prompt": []}, 1),
        ({"n": 2, "prompt": ["a", "b", "c"]}, 6),
        ({"prompt": [1, 2, 3]}, 1),
        ({"n": -1, "prompt": [[1, 2], [3]]}, 2),
    ],
)
def test_choices_are_what_a_whole_answer_has(fields: dict[str, Any], choices: int) -> None:
    assert read(model="a", **fields).choices == choices


def test_needs_name_the_features() -> None:
    assert read(model="a", logprobs=True, tools=[{"type": "function"}]).needs() == {Feature.LOGPROBS, Feature.TOOLS}
    assert read(model="a", logprobs=False, tools=[], echo=None).needs() == frozenset()
    assert read(model="a", reproducible=True).needs() == {Feature.REPRODUCIBLE}
    for wish in (False, None):
        assert read(model="a", reproducible=wish, cache_salt="x").needs() == frozenset()


def test_parameters_hold_settings_and_no_text() -> None:
    asked = read(model="a", temperature=0.5, seed=7, prompt="secret", echo="secret" * 50, messages=["secret"])
    assert asked.parameters() == {"temperature": 0.5, "seed": 7}
    words = read(model="a", encoding_format="base64", reasoning_effort="my secret", temperature="my secret", n=[1])
    assert words.parameters() == {"encoding_format": "base64"}


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"1", b'{"model": NaN}', b"\xff\xfe", b'{"a": "\xff"}', b"[" * 2000 + b"]" * 2000, b"null"],
)
def test_what_is_not_a_json_object_is_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        read_object(raw)


@pytest.mark.parametrize("digits", [str(2**64), str(-(2**63) - 1), "1" + "0" * 40, "-1" + "0" * 300])
def test_integers_that_would_be_changed_are_refused(digits: str) -> None:
    with pytest.raises(BadRequest, match="64 bits"):
        read_object(f'{{"deep": [{{"seed": {digits}}}]}}'.encode())


def test_other_long_numbers_and_texts_pass() -> None:
    fields = {"a": 2**64 - 1, "b": -(2**63), "c": "1" * 50, "d": [0.12345678901234567890], "1" * 30: None}
    assert read_object(json.dumps(fields).encode()) == fields
    deep = b'{"a":' * 900 + b"1234567890123456789" + b"}" * 900
    assert read_object(deep)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "model"),
        ({"model": 5}, "model"),
        ({"model": ""}, "model"),
        ({"model": "a", "stream": "yes"}, "stream"),
        ({"model": "a", "stream_options": 3}, "stream_options"),
    ],
)
def test_wrong_types_are_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read(**fields)
    assert caught.value.param == param


def test_of_duplicate_fields_the_last_counts() -> None:
    assert read_object(b'{"model": "a", "model": "b"}') == {"model": "b"}


def npy(count: int, width: int = 8) -> str:
    file = io.BytesIO()
    np.save(file, np.zeros((count, width), dtype=np.float32))
    return base64.b64encode(file.getvalue()).decode()


def tensors(count: int, width: int = 8) -> str:
    return base64.b64encode(safetensors.numpy.save({"a": np.zeros((count, width), dtype=np.float32)})).decode()


def completion(**fields: Any) -> ModelRequest:
    return ModelRequest.read("completions", Mode.QUERY, json.dumps({"model": "a", **fields}).encode())


@given(st.integers(1, 3000), st.integers(1, 64), st.sampled_from([npy, tensors]))
def test_vectors_are_counted_by_their_header(rows: int, width: int, write: Callable[[int, int], str]) -> None:
    assert count(write(rows, width)) == rows


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda data: base64.b64encode(data).decode()))
def test_what_does_not_say_how_many_counts_as_its_bytes(text: str) -> None:
    assert 0 <= count(text) <= len(text)


def test_a_decoy_in_the_metadata_does_not_make_it_cheap() -> None:
    data = safetensors.numpy.save({"a": np.zeros((500, 8), dtype=np.float32)}, {"x": '"shape":[1'})
    assert count(base64.b64encode(data).decode()) == 500
    large = safetensors.numpy.save({"a": np.zeros((500, 8), dtype=np.float32)}, {"x": '"shape":[1' + " " * 9000})
    assert count(base64.b64encode(large).decode()) >= 500


@pytest.mark.parametrize(
    ("given", "choices"),
    [
        (npy(2), 1),
        ([npy(2), npy(3)], 2),
        ([{"type": "prompt_embeds", "prompt_embeds": npy(2)}, {"type": "text", "text": "a"}], 1),
        ([[{"type": "prompt_embeds", "prompt_embeds": npy(2)}], [{"type": "text", "text": "a"}]], 2),
    ],
)
def test_vectors_in_a_completion_need_a_mode_and_a_feature(given: Any, choices: int) -> None:
    request = completion(prompt_embeds=given, n=3)
    text = {Feature.MIXED_COMPLETIONS} if '"text"' in json.dumps(given) else set()
    assert request.needs() == {Feature.PROMPT_EMBEDS, *text}
    echoed = completion(prompt_embeds=given, echo=True).needs()
    assert echoed == {Feature.PROMPT_EMBEDS, Feature.MIXED_PROMPTS, Feature.ECHO}
    assert Feature.MIXED_PROMPTS in completion(prompt_embeds=given, encoder="mine").needs()
    assert request.modes == {Mode.QUERY, Mode.EMBED}
    assert request.choices == 3 * choices
    assert request.parameters() == {"n": 3}


def test_vectors_in_a_message_do_too() -> None:
    part = {"type": "prompt_embeds", "prompt_embeds": npy(2)}
    request = read(model="a", messages=[{"role": "user", "content": [{"type": "text", "text": "a"}, part]}])
    assert request.needs() == {Feature.PROMPT_EMBEDS, Feature.MIXED_PROMPTS}
    assert request.modes == {Mode.QUERY, Mode.EMBED}
    assert read(model="a", messages=[{"role": "user", "content": [part]}]).needs() == {Feature.PROMPT_EMBEDS}
    text = read(model="a", messages=[{"role": "user", "content": "prompt_embeds"}, "odd", {"content": ["odd"]}])
    assert text.needs() == frozenset()
    assert text.modes == {Mode.QUERY}

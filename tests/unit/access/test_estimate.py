"""The estimate is an upper bound: no tokenizer makes more tokens of a text than it has bytes."""

import base64
import io
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.access.estimate import Estimate, is_free, probable_prompt_tokens
from terascope.core.models import Mode, ModelVersion, Task
from terascope.core.prices import Price, formula, micro, units
from terascope.internals.limits import Cost
from terascope.protocol.request import ModelRequest

VERSION = ModelVersion("m", "1", "d", "echo:", "", Task.GENERATE, 0)
SMALL = ModelVersion("m", "1", "d", "echo:", "", Task.GENERATE, 100)


def request(endpoint: str = "chat/completions", **fields: Any) -> ModelRequest:
    return ModelRequest.read(endpoint, Mode.QUERY, orjson.dumps({"model": "m", **fields}))


@given(st.lists(st.text(), max_size=5))
def test_a_prompt_has_at_most_as_many_tokens_as_bytes(texts: list[str]) -> None:
    sent = [text.encode("utf-8", "replace").decode() for text in texts]
    asked = request(messages=[{"role": "user", "content": text} for text in sent])
    assert Estimate.of(asked, VERSION).prompt >= sum(len(text.encode()) for text in sent) + 16 * len(sent)
    assert Estimate.of(asked, SMALL).prompt <= 100
    assert probable_prompt_tokens(asked, VERSION) <= Estimate.of(asked, VERSION).prompt


@pytest.mark.parametrize(
    ("fields", "output", "choices"),
    [
        ({}, None, 1),
        ({"max_tokens": 7}, 7, 1),
        ({"max_completion_tokens": 5, "max_tokens": 7}, 5, 1),
        ({"max_tokens": 7, "n": 3}, 21, 3),
        ({"max_tokens": 7, "best_of": 4, "n": 2}, 28, 4),
        ({"max_tokens": None}, None, 1),
        ({"max_tokens": "7"}, None, 1),
        ({"max_tokens": -1}, None, 1),
        ({"max_tokens": True}, None, 1),
        ({"max_tokens": 2**63 - 1}, 1 << 40, 1),
    ],
)
def test_how_long_an_answer_may_get(fields: dict[str, Any], output: int | None, choices: int) -> None:
    estimate = Estimate.of(request(messages=[], **fields), VERSION)
    assert (estimate.output, estimate.choices) == (output, choices)


def test_what_has_no_answer() -> None:
    assert Estimate.of(request("tokenize", prompt="x"), VERSION) == Estimate(0, 0)
    assert Estimate.of(request("embeddings", input=["a", "b"]), SMALL).output == 0
    assert Estimate.of(request("embeddings", input=["a" * 500] * 3), SMALL).prompt == 300
    assert Estimate.of(request("completions", prompt=["a", "b"], max_tokens=3), VERSION).output == 6
    assert Estimate.of(request("completions", prompt="a", max_tokens=300), SMALL).output == 100


def test_the_formula_of_prices() -> None:
    assert formula(32_000_000_000) == Price(8000, 32_000)  # a thousand billion in all, 32 active
    assert formula(134_515_008) == Price(33, 134)
    assert formula(0) == formula(1_000_000_000) == Price(250, 1000)
    assert formula(1000) == Price(1, 1)
    assert units(Price(250, 1000).cost(0, 1000)) == 1.0  # a service unit
    assert micro(0.1) + micro(0.2) == micro(0.3)


TRACE = {"prompts": ["one two", "three"], "operations": [{"capture": "norm"}]}


def test_a_trace_is_guessed_from_its_prompts_alone() -> None:
    """Where no engine says what it takes; arrays are no tokens, a gradient reads the prompts again."""
    plain = Estimate.of(request("traces", **TRACE), VERSION)
    arrays = {"v": {"dtype": "F32", "shape": [250_000], "data": "A" * 1_333_336}}
    assert Estimate.of(request("traces", **TRACE, arrays=arrays), VERSION) == plain
    assert len('["one two","three"]') <= plain.prompt < 2000
    assert probable_prompt_tokens(request("traces", **TRACE, arrays=arrays), VERSION) == len('["one two","three"]') // 4
    back = Estimate.of(request("traces", **TRACE, gradient={"steps": 4}), VERSION)
    assert back.prompt == plain.prompt * 13
    assert Estimate.of(request("traces", **TRACE, max_tokens=7), VERSION).output == 14
    many = request("traces", prompts=["a" * 1000] * 50)
    assert Estimate.of(many, SMALL).prompt == probable_prompt_tokens(many, SMALL) * 1 == 5000


def test_a_trace_whose_cost_is_known_is_held_exactly() -> None:
    cost = Cost(prompt_tokens=10, output_tokens=3, gradient_tokens=5, captured_bytes=4097)
    price = Price(2, 7)
    assert Estimate.exact(cost).amount(price, 1024) == cost.micro(price) == 2 * 25 + 7 * 3 + 2
    assert Estimate(10, None, 2).amount(price, 100) == 2 * 10 + 7 * 200


def test_a_dry_run_is_free() -> None:
    dry = request("traces", **TRACE, dry_run=True, stream=True, max_tokens=9)
    assert (dry.dry_run, dry.stream, is_free(dry)) == (True, False, True)
    assert (Estimate.of(dry, VERSION), probable_prompt_tokens(dry, VERSION)) == (Estimate(0, 0), 0)
    asked = request("traces", **TRACE, stream=True)
    assert (asked.dry_run, asked.stream, is_free(asked)) == (False, True, False)
    assert asked.as_dry_run().body_for("m") == request("traces", **TRACE, stream=True, dry_run=True).body_for("m")
    assert not is_free(request("completions", prompt="a", dry_run=True))


@given(st.integers(1, 200), st.integers(1, 100))
def test_a_vector_counts_as_a_token(vectors: int, width: int) -> None:
    """Not as the many bytes that it has."""
    file = io.BytesIO()
    np.save(file, np.zeros((vectors, width), dtype=np.float32))
    sent = base64.b64encode(file.getvalue()).decode()
    bare = Estimate.of(request("completions", prompt_embeds="", max_tokens=1), VERSION)
    found = Estimate.of(request("completions", prompt_embeds=sent, max_tokens=1), VERSION)
    assert found.prompt == bare.prompt + vectors
    assert vectors <= probable_prompt_tokens(request("completions", prompt_embeds=sent), VERSION) <= vectors + 20


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5))
def test_windows_are_not_bound_by_the_context(texts: list[str]) -> None:
    sent = [text.encode("utf-8", "replace").decode() * 50 for text in texts]
    found = Estimate.of(request("embeddings", input=sent, windows={"size": 16}), SMALL)
    assert found.prompt >= 4 * sum(len(text.encode()) for text in sent)
    assert found.output == 0

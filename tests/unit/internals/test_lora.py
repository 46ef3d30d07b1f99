"""What adapters say of themselves, and what is refused."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.core.errors import BadRequest
from terascope.internals.lora import CONFIG, MOST_RANK, PICKLE, WEIGHTS, check_files, modules_of, names_of, read_spec

GOOD: dict[str, Any] = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}
Q, K = "model.layers.0.self_attn.q_proj", "model.layers.11.self_attn.k_proj"


def _bytes(**config: object) -> bytes:
    return json.dumps(GOOD | config).encode()


def test_ranks_and_scales() -> None:
    spec = read_spec(_bytes(rank_pattern={"q_proj": 2}, alpha_pattern={"^model.layers.11.self_attn.k_proj": 1}))
    assert (spec.rank_of(Q), spec.scale_of(Q)) == (2, 4.0)
    assert (spec.rank_of(K), spec.scale_of(K)) == (4, 0.25)
    assert read_spec(_bytes(use_rslora=True)).scale_of(Q) == pytest.approx(8 / math.sqrt(4))


def test_a_pattern_is_an_end_of_a_path() -> None:
    spec = read_spec(_bytes(rank_pattern={"layers.1.self_attn.k_proj": 2, "proj": 3}))
    assert spec.rank_of("model.layers.1.self_attn.k_proj") == 2
    assert spec.rank_of(K) == 4
    assert spec.rank_of("a.proj") == 3
    assert spec.rank_of("a.c_proj") == 4


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "LORA"),
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "whole modules"),
        ({"bias": "all"}, "biases"),
        ({"lora_bias": True}, "biases"),
        ({"target_parameters": ["experts.up"]}, "experts"),
        ({"layer_replication": [[0, 2]]}, "repeats layers"),
        ({"alora_invocation_tokens": [1]}, "invocation"),
        ({"something_new": {"on": True}}, "something_new"),
        ({"init_lora_weights": "pissa_niter_4"}, "path_initial_model_for_weight_conversion"),
        ({"r": 0}, "rank"),
        ({"r": MOST_RANK + 1}, str(MOST_RANK)),
        ({"r": True}, "rank"),
        ({"r": "8"}, "rank"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"lora_alpha": float("nan")}, "no number"),
        ({"rank_pattern": {"(a+)+": 2}}, "quantifiers"),
        ({"rank_pattern": {"(": 2}}, "quantifiers"),
        ({"rank_pattern": {"q_proj": -1}}, "rank"),
        ({"rank_pattern": [1]}, "object"),
        ({"alpha_pattern": {"q_proj": "x"}}, "no number"),
    ],
)
def test_what_cannot_be_served_is_refused(config: dict[str, Any], word: str) -> None:
    with pytest.raises(BadRequest, match="cannot be served") as caught:
        read_spec(_bytes(**config))
    assert word in caught.value.message


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_configuration_is_refused(text: bytes) -> None:
    with pytest.raises(BadRequest):
        read_spec(text)


def test_settings_that_only_training_knows_are_let_through() -> None:
    read_spec(_bytes(lora_dropout=0.1, init_lora_weights="gaussian", layers_to_transform=[1], use_dora=False))


@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5).map(str))
def test_no_configuration_raises_anything_else(text: bytes | str) -> None:
    with pytest.raises(BadRequest):
        read_spec(text if isinstance(text, bytes) else _bytes(rank_pattern=text, r=text))


def test_modules() -> None:
    (a, b) = names_of(Q)
    assert modules_of(read_spec(_bytes()), {a: (4, 64), b: (32, 4)}) == {Q: (64, 32)}


@pytest.mark.parametrize(
    ("shapes", "word"),
    [
        ({}, "no tensors"),
        ({names_of(Q)[0]: (4, 64)}, "no pair"),
        ({names_of(Q)[0]: (4, 64), names_of(Q)[1]: (32, 5)}, "no pair"),
        ({names_of(Q)[0]: (4, 64, 3, 3), names_of(Q)[1]: (32, 4, 1, 1)}, "no pair"),
        ({names_of(Q)[0]: (8, 64), names_of(Q)[1]: (32, 8)}, "says 4"),
        ({"base_model.model.model.embed_tokens.lora_embedding_A": (4, 64)}, "embeddings"),
        ({"base_model.model.q.lora_magnitude_vector": (4,)}, "DoRA"),
        ({"base_model.model.lm_head.weight": (4, 4)}, "no A or B"),
        ({"model.q.lora_A.weight": (4, 4)}, "no A or B"),
    ],
)
def test_tensors_that_are_no_pairs_are_refused(shapes: dict[str, tuple[int, ...]], word: str) -> None:
    with pytest.raises(BadRequest, match=word):
        modules_of(read_spec(_bytes()), shapes)


def test_a_pickle_is_not_opened() -> None:
    with pytest.raises(BadRequest, match=r"weights_only=True"):
        check_files([CONFIG, PICKLE])
    check_files([CONFIG, WEIGHTS, PICKLE, "README.md"])
    with pytest.raises(BadRequest, match=f"no {CONFIG} and no {WEIGHTS}"):
        check_files(["README.md"])

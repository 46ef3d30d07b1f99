"""Packed texts get the states that plain transformers computes for each alone, for models of several kinds."""

import copy
import logging
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModel,
    BertConfig,
    DistilBertConfig,
    Gemma2Config,
    Gemma3TextConfig,
    ModernBertConfig,
    MPNetConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    RobertaConfig,
)

from terascope.engines.torch.batching import Batching, Packed, Padded, choose, first_position
from terascope.engines.torch.text_attention import Texts, at

PADDING = 1
CONTEXT = 40
SMALL: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": PADDING,
}
WINDOWED: dict[str, Any] = {"local_attention": 12, "global_attn_every_n_layers": 2, "initializer_cutoff_factor": 2.0}
SPECIAL: dict[str, Any] = {"eos_token_id": 2, "bos_token_id": 3, "cls_token_id": 3, "sep_token_id": 2}
GROUPED: dict[str, Any] = {"num_key_value_heads": 2, "head_dim": 8}
LAYERS: dict[str, Any] = {"layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 8}
DISTIL = {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "vocab_size": 100, "pad_token_id": PADDING}
PACKED: dict[str, PretrainedConfig] = {
    "bert": BertConfig(**SMALL),
    "distilbert": DistilBertConfig(**DISTIL, initializer_range=0.3),
    "roberta": RobertaConfig(**SMALL),
    "modernbert with a window": ModernBertConfig(**SMALL, **WINDOWED, **SPECIAL),
    "qwen3": Qwen3Config(**SMALL, **GROUPED),
    "qwen3 that looks both ways": Qwen3Config(**SMALL, **GROUPED, is_causal=False),
    "qwen3 with a window": Qwen3Config(
        **SMALL, **GROUPED, use_sliding_window=True, sliding_window=9, max_window_layers=1
    ),
    "gemma3 that looks both ways": Gemma3TextConfig(
        **SMALL, **GROUPED, **LAYERS, sliding_window=9, use_bidirectional_attention=True
    ),
}
TEXT = st.lists(st.integers(0, 99), min_size=1, max_size=CONTEXT)


def _model(config: PretrainedConfig) -> PreTrainedModel:
    torch.manual_seed(1)
    model: PreTrainedModel = AutoModel.from_config(copy.deepcopy(config), dtype=torch.float32)
    model.config.use_cache = False
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=list(PACKED))
def pair(request: pytest.FixtureRequest) -> tuple[PreTrainedModel, Batching]:
    """A model as transformers runs it, and the same as the engine does."""
    config = PACKED[request.param]
    return _model(config), choose(_model(config), CONTEXT)


def _together(batching: Batching, rows: Sequence[Sequence[int]]) -> Sequence[torch.Tensor]:
    ordered = sorted(rows, key=len)
    ids = torch.tensor([token for row in ordered for token in row])
    with torch.inference_mode():
        states = batching.states(ids, Texts([len(row) for row in ordered], ids.device))
    return torch.split(states, [len(row) for row in ordered])


def _alone(model: PreTrainedModel, row: Sequence[int]) -> torch.Tensor:
    with torch.inference_mode():
        states: torch.Tensor = model(input_ids=torch.tensor([list(row)])).last_hidden_state[0]
    return states


@settings(max_examples=25, deadline=None)
@example(rows=[[5] * CONTEXT, [PADDING, 7, PADDING, PADDING, 8], [9], [10], [*range(CONTEXT)]])
@given(rows=st.lists(TEXT, min_size=1, max_size=6))
def test_neighbours_change_nothing(pair: tuple[PreTrainedModel, Batching], rows: list[list[int]]) -> None:
    plain, batching = pair
    assert isinstance(batching, Packed)
    for row, found in zip(sorted(rows, key=len), _together(batching, rows), strict=True):
        torch.testing.assert_close(found, _alone(plain, row), atol=1e-5, rtol=1e-5)


def test_padded_is_the_same(pair: tuple[PreTrainedModel, Batching]) -> None:
    plain, _ = pair
    rows = [[5, 6, 7], [8], [9, 10], [*range(20, 50)]]
    for row, found in zip(sorted(rows, key=len), _together(Padded(plain), rows), strict=True):
        torch.testing.assert_close(found, _alone(plain, row), atol=1e-5, rtol=1e-5)


def _position_bias() -> PreTrainedModel:
    return _model(MPNetConfig(**SMALL))


def _caps() -> PreTrainedModel:
    model = _model(Gemma2Config(**SMALL, **GROUPED, **LAYERS))
    model.set_attn_implementation("eager")
    return model


def _own_order() -> PreTrainedModel:
    """A model that looks at its neighbours by other means than attention."""
    model = _model(BertConfig(**SMALL))

    def mix(_: torch.nn.Module, __: Any, states: torch.Tensor) -> torch.Tensor:
        return states + torch.nn.functional.pad(states, (0, 0, 1, 0))[:, :-1]

    model.embeddings.register_forward_hook(mix)
    return model


def _wider_than_it_says() -> PreTrainedModel:
    """A model whose own masks hide something else than the window that it gives to its attention."""
    model = _model(PACKED["modernbert with a window"])
    for layer in model.layers:
        if layer.attn.sliding_window:
            layer.attn.sliding_window += 2
    return model


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_position_bias, "does not let its attention be chosen"),
        (_caps, "softcap"),
        (_own_order, "something else when texts are packed"),
        (_wider_than_it_says, "something else when texts are packed"),
    ],
)
def test_what_cannot_be_packed_is_filled_up(make: Any, words: str, caplog: pytest.LogCaptureFixture) -> None:
    model = make()
    own = model.config._attn_implementation
    with caplog.at_level(logging.WARNING, "terascope.engines.torch.batching"):
        batching = choose(model, CONTEXT)
    assert isinstance(batching, Padded)
    assert model.config._attn_implementation == own
    assert words in str(caplog.records[0].__dict__["reason"])


def test_the_fallback_is_right_for_every_length() -> None:
    model = _position_bias()
    batching = choose(model, CONTEXT)
    rows = [[*range(2, 2 + length)] for length in (1, 4, 4, 9, 30)]
    for row, found in zip(rows, _together(batching, rows), strict=True):
        torch.testing.assert_close(found, _alone(_position_bias(), row), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_packed(dtype: torch.dtype) -> None:
    assert isinstance(choose(_model(PACKED["bert"]).to(dtype), CONTEXT), Packed)
    assert isinstance(choose(_own_order().to(dtype), CONTEXT), Padded)


def test_weights_that_are_no_numbers_prove_nothing() -> None:
    model = _model(PACKED["bert"])
    model.get_input_embeddings().weight[:] = torch.nan
    assert isinstance(choose(model, CONTEXT), Padded)


def test_a_context_shorter_than_the_check() -> None:
    config = copy.deepcopy(PACKED["bert"])
    config.max_position_embeddings = 4
    assert isinstance(choose(_model(config), 4), Packed)


@pytest.mark.parametrize(("name", "first"), [("bert", 0), ("roberta", PADDING + 1), ("qwen3", 0)])
def test_first_positions(name: str, first: int) -> None:
    assert first_position(_model(PACKED[name])) == first
    assert first_position(_position_bias()) == PADDING + 1


@pytest.mark.parametrize("lengths", [[], [0, 1], [3, 2]])
def test_lengths_that_are_none(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="lengths"):
        Texts(lengths, torch.device("cpu"))


def test_one_call_for_each_length() -> None:
    texts = Texts([2, 2, 2, 5, 7, 7], torch.device("cpu"))
    assert [(one.first, one.count, one.length) for one in texts.groups] == [(0, 3, 2), (6, 1, 5), (11, 2, 7)]
    assert texts.starts.tolist() == [0, 2, 4, 6, 11, 18]
    assert texts.ranks.tolist() == [0, 1] * 3 + [*range(5)] + [*range(7)] * 2


def test_a_packed_model_knows_only_its_own_texts() -> None:
    batching = choose(_model(PACKED["bert"]), CONTEXT)
    ids = torch.tensor([[5, 6, 7]])
    with pytest.raises(RuntimeError, match="outside of a step"):
        batching.module(input_ids=ids)
    with at(Texts([2], ids.device)), pytest.raises(NotImplementedError, match="tokens of the texts"):
        batching.module(input_ids=ids)

"""Packed rows compute what plain transformers computes, for models of several kinds."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    GptOssConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MixtralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from terascope.core.errors import ConfigError
from terascope.engines.torch.cache import blocks_for
from terascope.engines.torch.layout import Span
from terascope.engines.torch.packed import PackedModel, Step, prepare

SMALL: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "head_dim": 8,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SMALL),
    "qwen3": Qwen3Config(**SMALL),
    "mistral with a window": MistralConfig(**SMALL, sliding_window=6),
    "gemma2 with caps and windows": Gemma2Config(**SMALL, sliding_window=6, query_pre_attn_scalar=8),
    "mixtral": MixtralConfig(**SMALL, num_local_experts=4),
    "gpt-oss with sinks": GptOssConfig(
        **SMALL, num_local_experts=4, sliding_window=6, layer_types=["sliding_attention", "full_attention"]
    ),
    "gpt2": GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.3),
}


def _model(config: PretrainedConfig) -> PreTrainedModel:
    torch.manual_seed(1)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.eval().requires_grad_(False)


def _expected(config: PretrainedConfig, rows: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    model = _model(config)
    model.set_attn_implementation("eager")
    return [model(input_ids=torch.tensor([row]), use_cache=False).logits[0] for row in rows]


def _packed(config: PretrainedConfig, tokens: int = 2000) -> PackedModel:
    model = _model(config)
    prepare(model)
    return PackedModel(model, tokens)


def _run(packed: PackedModel, rows: Sequence[Sequence[int]], plan: Sequence[Sequence[tuple[int, int]]]) -> list[Any]:
    """Compute rows by steps of (row, count); return the logits of every token."""
    blocks = [packed.pool.take(blocks_for(len(row))) for row in rows]
    done = [0] * len(rows)
    found: list[list[torch.Tensor]] = [[] for _ in rows]
    for step in plan:
        spans = [Span(done[row], count, blocks[row]) for row, count in step]
        tokens = [t for row, count in step for t in rows[row][done[row] : done[row] + count]]
        logits = packed.run(Step(tokens, spans, range(len(tokens)))).clone()  # recorded steps write to one place
        for (row, count), part in zip(step, torch.split(logits, [count for _, count in step]), strict=True):
            found[row].append(part)
            done[row] += count
    for held in blocks:
        packed.pool.give_back(held)
    return [torch.cat(parts) for parts in found]


ROWS = [[(i * 7 + j * 3 + 1) % 100 for j in range(length)] for i, length in enumerate((40, 9, 23))]
PLAN = [[(0, 20), (1, 8)], [(1, 1), (0, 12), (2, 22)], [(0, 1), (2, 1)], *[[(0, 1)]] * 7]


@pytest.mark.parametrize("name", CONFIGS)
def test_models_compute_the_same_packed(name: str) -> None:
    expected = _expected(CONFIGS[name], ROWS)
    for right, ours in zip(expected, _run(_packed(CONFIGS[name]), ROWS, PLAN), strict=True):
        torch.testing.assert_close(ours, right, atol=2e-4, rtol=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_however_rows_are_cut_and_mixed(data: st.DataObject) -> None:
    rows = [[(i * 11 + j * 5) % 100 for j in range(data.draw(st.integers(1, 50)))] for i in range(4)]
    left = [len(row) for row in rows]
    plan = []
    while any(left):
        step: list[tuple[int, int]] = []
        for row in data.draw(st.permutations(range(4))):
            if left[row] and (data.draw(st.booleans()) or not step):
                step.append((row, data.draw(st.integers(1, left[row]))))
                left[row] -= step[-1][1]
        plan.append(step)
    found = _run(_packed(CONFIGS["llama"]), rows, plan)
    for right, ours in zip(_expected(CONFIGS["llama"], rows), found, strict=True):
        torch.testing.assert_close(ours, right, atol=2e-4, rtol=1e-4)


def test_nothing_of_an_earlier_row_is_seen() -> None:
    packed = _packed(CONFIGS["llama"])
    first = _run(packed, ROWS[:1], [[(0, 40)]])
    _run(packed, [[99] * 40], [[(0, 39)], [(0, 1)]])
    again = _run(packed, ROWS[:1], [[(0, 39)], [(0, 1)]])
    torch.testing.assert_close(again[0], first[0], atol=2e-4, rtol=1e-4)


def test_logits_are_kept_where_they_are_wanted() -> None:
    packed = _packed(CONFIGS["llama"])
    row = ROWS[0]
    blocks = packed.pool.take(blocks_for(40))
    whole = packed.run(Step(row[:30], [Span(0, 30, blocks)], range(30)))
    kept = packed.run(Step(row[:30], [Span(0, 30, blocks)], [3, 29]))
    torch.testing.assert_close(kept, whole[[3, 29]])
    assert packed.run(Step(row[30:], [Span(30, 10, blocks)], [])).shape == (0, 100)


@pytest.mark.parametrize(
    "config",
    [
        BloomConfig(vocab_size=100, hidden_size=32, n_layer=2, n_head=4),  # positions are in its own attention
        MambaConfig(vocab_size=100, hidden_size=32, num_hidden_layers=2),  # has no attention
    ],
    ids=["bloom", "mamba"],
)
def test_a_model_that_cannot_be_packed_is_refused(config: PretrainedConfig) -> None:
    with pytest.raises(ConfigError, match="torch engine"):
        prepare(_model(config))


def test_half_precision_passes_the_check() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        model = _model(CONFIGS["llama"]).to(dtype)
        assert prepare(model) == 2 * 2 * 2 * 8 * 2

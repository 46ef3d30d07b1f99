"""Shapes against the real model code: parameters of whole models, weights, caches and operations of small ones."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from terascope.planner import Architecture, find_model, parse_config
from terascope.planner.library import _entries

SAME_LAYOUT = {"kimi_k2": "deepseek_v3"}
NOT_THERE = {
    "kimi_linear", "minimax_m3", "bailing_moe", "mistral_large_3", "pangu_sigma", "glam", "switch_transformers",
    "deepseek_v32",
}  # fmt: skip
"""Families that transformers does not have, or has as another kind of model."""
REAL = {one["name"]: dict(one["config"]) for one in _entries() if one["config"]["model_type"] not in NOT_THERE}

WIDE: dict[str, Any] = {
    "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 32,
    "intermediate_size": 640, "vocab_size": 1024, "max_position_embeddings": 512, "tie_word_embeddings": False,
    "pad_token_id": 0,
}  # fmt: skip
EXPERTS = {"moe_intermediate_size": 128, "num_experts_per_tok": 2}
SMALL: dict[str, dict[str, Any]] = {
    "llama": WIDE,
    "qwen3": WIDE,
    "smollm3": WIDE,
    "qwen3_moe": WIDE | EXPERTS | {"num_experts": 8},
    "gpt_oss": WIDE | {"num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": 64},
    "minimax_m2": WIDE | EXPERTS | {"num_local_experts": 8, "intermediate_size": 128},
    "glm4_moe": WIDE | EXPERTS | {"n_routed_experts": 8, "n_shared_experts": 1, "first_k_dense_replace": 1},
    "deepseek_v3": WIDE
    | EXPERTS
    | {
        "head_dim": 16, "num_key_value_heads": 8, "n_routed_experts": 8, "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "q_lora_rank": 96, "kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32,
        "n_group": 1, "topk_group": 1,
    },
    "qwen3_5_moe_text": WIDE
    | EXPERTS
    | {
        "num_experts": 8, "shared_expert_intermediate_size": 128, "linear_num_key_heads": 4,
        "linear_num_value_heads": 8, "linear_key_head_dim": 32, "linear_value_head_dim": 32,
        "linear_conv_kernel_dim": 4, "attn_output_gate": True,
    },
}  # fmt: skip
TOKENS = 64


def _config(kind: str, values: dict[str, Any]) -> Any:
    given = {key: value for key, value in values.items() if key not in ("model_type", "quantization_config")}
    return AutoConfig.for_model(SAME_LAYOUT.get(kind, kind), **given)


def _model(kind: str) -> tuple[Any, Architecture]:
    """A small model with random weights, and its shapes as the planner reads them from its own configuration."""
    torch.manual_seed(0)
    config = _config(kind, SMALL[kind])
    model = AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", experts_implementation="eager", dtype=torch.float32
    ).eval()
    return model, parse_config(config.to_dict() | SMALL[kind] | {"model_type": kind}, kind)


@pytest.mark.parametrize("name", REAL)
def test_parameters_are_those_of_the_real_model(name: str) -> None:
    """Built at full size on the meta device, which has no memory. What is missing are norms and biases."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(_config(REAL[name]["model_type"], REAL[name]))
    real = sum(one.numel() for one in model.parameters())
    assert find_model(name).parameters == pytest.approx(real, rel=6e-4)
    assert find_model(name).parameters < real


@pytest.mark.parametrize("kind", SMALL)
def test_weights_of_small_models_take_what_is_predicted(kind: str) -> None:
    model, shapes = _model(kind)
    allocated = sum(one.untyped_storage().nbytes() for one in model.parameters())
    assert 4 * shapes.parameters == pytest.approx(allocated, rel=0.03)


@pytest.mark.parametrize("kind", [kind for kind in SMALL if kind not in ("deepseek_v3", "qwen3_5_moe_text", "gpt_oss")])
def test_the_cache_of_small_models_takes_what_is_predicted(kind: str) -> None:
    """Not of latent attention, which transformers keeps unfolded, nor where windows and states are kept otherwise."""
    model, shapes = _model(kind)
    with torch.inference_mode():
        cache = model(
            torch.arange(TOKENS).unsqueeze(0), past_key_values=DynamicCache(config=model.config)
        ).past_key_values
    kept = sum(one.keys.nbytes + one.values.nbytes for one in cache.layers)
    assert kept == TOKENS * shapes.cache_bytes(4)


@pytest.mark.parametrize("kind", [kind for kind in SMALL if kind != "qwen3_5_moe_text"])
def test_operations_of_small_models_are_those_that_torch_counts(kind: str) -> None:
    """Its linear attention is written in small products, which torch's fallback computes several times over."""
    model, shapes = _model(kind)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(torch.arange(TOKENS).unsqueeze(0), use_cache=False)
    weights = shapes.active - shapes.hidden * shapes.vocabulary  # the embedding is looked up, not multiplied
    pairs = sum(one.pair_flops * n for one, n in shapes.attention) * TOKENS  # eager attention computes the masked too
    assert TOKENS * (2 * weights + pairs) == pytest.approx(counter.get_total_flops(), rel=0.03)

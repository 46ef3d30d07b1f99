"""Shapes against the real model code: parameters of whole models, weights, caches and operations of small ones."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, DynamicCache

from terascope.planner import find_model
from terascope.planner.library import _entries

from .small_models import SMALL, model_config, small_model

NOT_THERE = {
    "kimi_linear", "minimax_m3", "bailing_moe", "mistral_large_3", "pangu_sigma", "glam", "switch_transformers",
    "deepseek_v32",
}  # fmt: skip
"""Families that transformers does not have, or has as another kind of model."""
REAL = {one["name"]: dict(one["config"]) for one in _entries() if one["config"]["model_type"] not in NOT_THERE}

TOKENS = 64


@pytest.mark.parametrize("name", REAL)
def test_parameters_are_those_of_the_real_model(name: str) -> None:
    """Built at full size on the meta device, which has no memory. What is missing are norms and biases."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config(REAL[name]["model_type"], REAL[name]))
    real = sum(one.numel() for one in model.parameters())
    assert find_model(name).parameters == pytest.approx(real, rel=6e-4)
    assert find_model(name).parameters < real


@pytest.mark.parametrize("kind", SMALL)
def test_weights_of_small_models_take_what_is_predicted(kind: str) -> None:
    model, shapes = small_model(kind)
    allocated = sum(one.untyped_storage().nbytes() for one in model.parameters())
    assert 4 * shapes.parameters == pytest.approx(allocated, rel=0.03)


@pytest.mark.parametrize("kind", [kind for kind in SMALL if kind not in ("deepseek_v3", "qwen3_5_moe_text", "gpt_oss")])
def test_the_cache_of_small_models_takes_what_is_predicted(kind: str) -> None:
    """Not of latent attention, which transformers keeps unfolded, nor where windows and states are kept otherwise."""
    model, shapes = small_model(kind)
    with torch.inference_mode():
        cache = model(
            torch.arange(TOKENS).unsqueeze(0), past_key_values=DynamicCache(config=model.config)
        ).past_key_values
    kept = sum(one.keys.nbytes + one.values.nbytes for one in cache.layers)
    assert kept == TOKENS * shapes.cache_bytes(4)


@pytest.mark.parametrize("kind", [kind for kind in SMALL if kind != "qwen3_5_moe_text"])
def test_operations_of_small_models_are_those_that_torch_counts(kind: str) -> None:
    """Its linear attention is written in small products, which torch's fallback computes several times over."""
    model, shapes = small_model(kind)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(torch.arange(TOKENS).unsqueeze(0), use_cache=False)
    weights = shapes.active - shapes.hidden * shapes.vocabulary  # the embedding is looked up, not multiplied
    pairs = sum(one.pair_flops * n for one, n in shapes.attention) * TOKENS  # eager attention computes the masked too
    assert TOKENS * (2 * weights + pairs) == pytest.approx(counter.get_total_flops(), rel=0.03)

"""Small models of many architectures, with random weights, and their shapes as the planner reads them."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CLASSES

from terascope.planner import Architecture, parse_config

SAME_LAYOUT = {"kimi_k2": "deepseek_v3"}
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
    "olmo2": WIDE,
    "granite": WIDE,
    "qwen3_moe": WIDE | EXPERTS | {"num_experts": 8},
    "gpt_oss": WIDE | {"num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": 64},
    "minimax_m2": WIDE
    | EXPERTS
    | {"num_local_experts": 8, "intermediate_size": 128, "rotary_dim": 32, "scoring_func": "sigmoid"},
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


def model_config(kind: str, values: dict[str, Any]) -> Any:
    """The configuration of a model of transformers."""
    given = {key: value for key, value in values.items() if key not in ("model_type", "quantization_config")}
    return AutoConfig.for_model(SAME_LAYOUT.get(kind, kind), **given)


def small_model(kind: str) -> tuple[Any, Architecture]:
    """A small model with random weights, and its shapes as the planner reads them from its own configuration."""
    torch.manual_seed(0)
    config = model_config(kind, SMALL[kind])
    model = AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", experts_implementation="eager", dtype=torch.float32
    ).eval()
    return model, small_shapes(kind)


def small_shapes(kind: str) -> Architecture:
    """The shapes alone."""
    return parse_config(model_config(kind, SMALL[kind]).to_dict() | SMALL[kind] | {"model_type": kind}, kind)


def write_config(kind: str, directory: Path) -> Path:
    """Write the `config.json` of a small model, with which an engine makes random weights."""
    config = model_config(kind, SMALL[kind])
    config.architectures = [CLASSES[kind]]
    config.save_pretrained(directory)
    return directory

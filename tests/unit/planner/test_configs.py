"""Reading `config.json`, and what is said of those that cannot be read."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from terascope.core.errors import BadRequest
from terascope.planner import find_model, parse_config, read_config
from terascope.planner.library import _entries

LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 100, "max_position_embeddings": 512,
}  # fmt: skip
MIXTURE = LLAMA | {
    "model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16,
}  # fmt: skip


def _packed(bits: int, kind: str) -> dict[str, Any]:
    weights = {"num_bits": bits, "type": kind}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": weights}}}


def _entry(name: str) -> dict[str, Any]:
    return dict(next(one for one in _entries() if one["name"] == name)["config"])


def test_a_dense_model_counts_as_its_layers_say() -> None:
    shapes = parse_config(LLAMA, "small")
    attention, gate_up_down = 2 * 64 * 64 + 2 * 64 * 32, 3 * 64 * 128
    assert shapes.parameters == 2 * (attention + gate_up_down) + 2 * 64 * 100
    assert shapes.active == shapes.parameters
    assert shapes.cache_bytes() == 2 * 2 * 2 * 16 * 2
    assert (shapes.layers, shapes.context, shapes.native, shapes.is_mixture) == (2, 512, "bf16", False)


def test_tied_embeddings_count_once() -> None:
    assert parse_config(LLAMA | {"tie_word_embeddings": True}, "x").embeddings == 64 * 100


def test_a_mixture_counts_all_and_the_chosen_experts() -> None:
    shapes = parse_config(MIXTURE, "mixture")
    one = 3 * 64 * 32
    assert shapes.routed_parameters == 2 * 8 * one
    assert shapes.parameters - shapes.active == 2 * 6 * one


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "awq", "bits": 4}, "int4-all"),
        ({"quant_method": "gptq", "bits": 8}, "int8"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "fp8"),
        (_packed(8, "int"), "int8"),
        (_packed(8, "float"), "fp8"),
        (_packed(4, "int"), "int4-all"),
        (None, "bf16"),
        ({"quant_method": "bitnet"}, "bitnet"),
        (_packed(2, "int"), "compressed-tensors of 2 bits"),
    ],
)  # fmt: skip
def test_number_formats(given: object, expected: str) -> None:
    assert parse_config(LLAMA | {"quantization_config": given}, "x").native == expected


def test_formats_of_published_checkpoints() -> None:
    named = {"kimi-k2": "fp8", "kimi-k2.5": "int4", "kimi-k3": "mxfp4", "gpt-oss-120b": "mxfp4", "ling-1t": "bf16"}
    assert {name: find_model(name).native for name in named} == named
    assert find_model("deepseek-v4-pro").native == "fp8-fp4"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "martian"}, "model_type 'martian', which the planner does not know"),
        ({"model_type": None}, "model_type 'missing'"),
        ({"hidden_size": None}, "lacks hidden_size or n_embd"),
        ({"hidden_size": 0}, "lacks hidden_size"),
        ({"hidden_size": "many"}, "hidden_size: 'many', which is not a whole number"),
        ({"vocab_size": -3}, "vocab_size: -3"),
        ({"num_hidden_layers": True}, "num_hidden_layers: True"),
        ({"num_key_value_heads": 3}, "4 query heads, which 3 key-value heads cannot share"),
        ({"num_attention_heads": 5, "num_key_value_heads": 5}, "hidden size 64 is not a multiple of its 5 heads"),
        ({"layer_types": ["full_attention"]}, "2 layers, but 1 entries in layer_types"),
        (MIXTURE | {"num_experts_per_tok": 9}, "chooses 9 experts for each token, but has 8"),
        (MIXTURE | {"moe_layer_freq": [1]}, "2 layers, but 1 entries in moe_layer_freq"),
        (MIXTURE | {"first_k_dense_replace": 5}, "the first 5 are to be dense"),
    ],
)
def test_contradictions_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest, match=message) as error:
        parse_config(LLAMA | change, "x")
    assert error.value.param in ("model", "quantization")


def test_lists_of_layers_must_add_up() -> None:
    config = _entry("moonshotai/Kimi-K3")
    with pytest.raises(BadRequest, match="90 layers, but lists 24 full and 69 linear"):
        parse_config(config | {"num_hidden_layers": 90}, "x")


def test_a_directory_and_a_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    assert read_config(tmp_path).parameters == read_config(tmp_path / "config.json").parameters
    assert find_model(str(tmp_path)).name == tmp_path.name


@pytest.mark.parametrize(("text", "message"), [("{", "is not JSON"), ("[]", "is not a JSON object")])
def test_files_that_are_no_config(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BadRequest, match=message):
        read_config(tmp_path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"cannot read .*No such file"):
        read_config(tmp_path / "config.json")


def test_the_language_part_of_a_multimodal_model() -> None:
    outer = {"model_type": "qwen3_vl", "text_config": LLAMA | {"model_type": "qwen3_vl_text"}, "vision_config": {}}
    assert parse_config(outer, "x").parameters == parse_config(LLAMA, "x").parameters


@pytest.mark.parametrize(
    "name", ["Qwen/Qwen3-0.6B", "meta-llama/Llama-3.1-8B", "Qwen/Qwen3-30B-A3B", "deepseek-ai/DeepSeek-V3"]
)
def test_the_library_s_keys_are_those_of_transformers(name: str) -> None:
    """transformers reads the same entry into a configuration that has the same sizes."""
    entry = _entry(name)
    kind = {"kimi_k2": "deepseek_v3"}.get(entry["model_type"], entry["model_type"])
    theirs = AutoConfig.for_model(kind, **{key: value for key, value in entry.items() if key != "model_type"})
    shapes = find_model(name)
    assert (theirs.hidden_size, theirs.vocab_size) == (shapes.hidden, shapes.vocabulary)
    assert theirs.num_hidden_layers == shapes.layers

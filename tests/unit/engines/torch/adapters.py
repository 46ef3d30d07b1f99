"""Adapters that PEFT makes, and what PEFT computes with them."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import peft
import torch
from torch import nn
from transformers import PreTrainedModel

from terascope.engines.adapter_files import AdapterFiles
from terascope.engines.torch.lora.read import Base, base_of, read_adapter
from terascope.engines.torch.lora.weights import Adapter
from terascope.engines.torch.model import CausalModel
from terascope.internals.lora import CONFIG, WEIGHTS

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
KINDS: Mapping[str, Mapping[str, Any]] = {
    "all": {"r": 4, "lora_alpha": 8, "target_modules": ALL},
    "attention": {"r": 8, "lora_alpha": 3, "target_modules": ["q_proj", "v_proj"]},
    "stabilised": {"r": 3, "lora_alpha": 6, "target_modules": ALL, "use_rslora": True},
    "one layer": {"r": 2, "lora_alpha": 9, "target_modules": ["up_proj"], "layers_to_transform": [1]},
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "k_proj", "down_proj"],
        "rank_pattern": {"layers.0.self_attn.q_proj": 7, "^model.layers.1.mlp.down_proj": 1},
        "alpha_pattern": {"k_proj": 1, "layers.1.self_attn.q_proj": 12},
    },
}
"""Settings of adapters that are unlike each other."""


def random_adapter(module: nn.Module, directory: Path, seed: int, size: float = 0.3, **config: Any) -> Path:
    """Let PEFT make an adapter of `module` with random weights, and save it."""
    made = peft.get_peft_model(module, peft.LoraConfig(**config))
    generator = torch.Generator().manual_seed(seed)
    for name, weight in made.named_parameters():
        if "lora_" in name:
            weight.data = torch.randn(weight.shape, generator=generator).mul_(size * weight.shape[1] ** -0.5)
    made.save_pretrained(directory)
    made.unload()
    return directory


def with_peft(module: PreTrainedModel, directory: Path) -> PreTrainedModel:
    """The base model as PEFT makes it with the adapter in `directory`; `module` itself is changed."""
    found = peft.PeftModel.from_pretrained(module, str(directory)).eval().requires_grad_(False)
    base: PreTrainedModel = found.base_model.model
    return base


def files_of(directory: Path, name: str = "tiny:one") -> AdapterFiles:
    """The files of an adapter as the gateway would tell of them."""
    names = [CONFIG, WEIGHTS]
    there = {
        one: hashlib.sha256((directory / one).read_bytes()).hexdigest() for one in names if (directory / one).exists()
    }
    return AdapterFiles(name, hashlib.sha256("".join(there.values()).encode()).hexdigest(), directory, there)


def base(model: CausalModel, most_rank: int = 64) -> Base:
    """What adapters of `model` must fit."""
    found = base_of(model.packed, most_rank)
    assert found is not None
    return found


def load_all(model: CausalModel, directories: Sequence[Path]) -> list[Adapter]:
    """The adapters in memory."""
    own = base(model)
    return [read_adapter(files_of(one), own) for one in directories]

"""Small LoRA adapters as PEFT saves them, written byte by byte."""

import json
import struct
from collections.abc import Mapping

from terascope.internals.lora import CONFIG, WEIGHTS

MODULE = "model.layers.0.self_attn.q_proj"


def adapter(
    weights: Mapping[str, tuple[tuple[int, int], float]] | None = None, *, rank: int = 2, **config: object
) -> dict[str, bytes]:
    """Return the files of an adapter, by path; `config` goes into its adapter_config.json.

    `weights` are shapes and the number that fills them, by the tensors' names; by default one pair of A and B.
    """
    default = {f"{MODULE}.lora_A.weight": ((rank, 4), 0.5), f"{MODULE}.lora_B.weight": ((4, rank), 0.25)}
    named = weights or {f"base_model.model.{name}": value for name, value in default.items()}
    values = {"peft_type": "LORA", "r": rank, "lora_alpha": 4, "bias": "none", "target_modules": ["q_proj"], **config}
    return {CONFIG: json.dumps(values).encode(), WEIGHTS: tensors(named)}


def tensors(weights: Mapping[str, tuple[tuple[int, int], float]]) -> bytes:
    """Return a safetensors file of float32 matrices that are filled with one number each."""
    header: dict[str, object] = {}
    body = b""
    for name, (shape, value) in weights.items():
        data = struct.pack("<f", value) * (shape[0] * shape[1])
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body

"""Reading numbers out of a `config.json`: each by the names that model families give it, with errors that name them."""

from collections.abc import Mapping, Sequence
from typing import Any

from terascope.core.errors import BadRequest

NAMES: Mapping[str, tuple[str, ...]] = {
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "heads": ("num_attention_heads", "n_head", "num_heads"),
    "kv_heads": ("num_key_value_heads", "n_head_kv", "num_kv_heads"),
    "head": ("head_dim", "d_kv"),
    "inner": ("intermediate_size", "n_inner", "d_ff", "ffn_dim"),
    "vocabulary": ("vocab_size",),
    "context": ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"),
    "experts": ("n_routed_experts", "num_experts", "num_local_experts"),
    "chosen": ("num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_topk"),
    "expert_inner": ("moe_intermediate_size", "expert_ffn_hidden_size"),
    "shared_experts": ("n_shared_experts", "num_shared_experts"),
    "shared_inner": (
        "shared_expert_intermediate_size",
        "moe_shared_expert_intermediate_size",
        "shared_intermediate_size",
    ),
    "dense_inner": ("dense_intermediate_size", "intermediate_size_mlp"),
    "latent_width": ("routed_expert_hidden_size", "moe_latent_size"),
    "dense_layers": ("first_k_dense_replace",),
    "window": ("sliding_window",),
    "drafts": ("num_nextn_predict_layers", "mtp_num_hidden_layers", "mtp_transformer_layers"),
}
"""What the planner calls a number, and what config.json may call it."""

_LARGEST = 2**31


class Fields:
    """One `config.json`, or the part of it that describes the language model."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values = values
        self.where = where

    def find(self, name: str) -> int | None:
        """The number that the planner calls `name`, or None where no key has one. Raises `BadRequest` for nonsense."""
        for key in NAMES.get(name, (name,)):
            if (value := self.values.get(key)) is not None:
                return self._whole(key, value)
        return None

    def get(self, name: str, default: int = 0) -> int:
        """As `find`, with a default."""
        found = self.find(name)
        return default if found is None else found

    def need(self, name: str) -> int:
        """As `find`. Raises `BadRequest` where there is none, or it is 0."""
        if not (found := self.find(name)):
            raise self.wrong(f"lacks {' or '.join(NAMES.get(name, (name,)))}; without it nothing can be computed")
        return found

    def flag(self, key: str) -> bool:
        """Whether `key` is true."""
        return bool(self.values.get(key))

    def list(self, key: str) -> Sequence[Any]:
        """The list at `key`, empty where there is none."""
        value = self.values.get(key)
        return value if isinstance(value, list) else ()

    def mapping(self, key: str) -> Mapping[str, Any]:
        """The object at `key`, empty where there is none."""
        value = self.values.get(key)
        return value if isinstance(value, dict) else {}

    def part(self, key: str) -> "Fields":
        """The object at `key` as fields of its own."""
        return Fields(self.mapping(key), f"{key} of {self.where}")

    def wrong(self, what: str) -> BadRequest:
        """An error about this file."""
        return BadRequest(f"{self.where} {what}", param="model")

    def _whole(self, key: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST:
            raise self.wrong(f"has {key}: {value!r}, which is not a whole number from 0 to {_LARGEST}")
        return value

"""Embedding models: texts to vectors, as sentence-transformers describes them in a checkpoint's files."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel

from terascope.core.errors import ConfigError
from terascope.engines.torch.model import Report, choose_device, choose_dtype
from terascope.engines.torch.settings import WorkerSettings
from terascope.engines.torch.vocabulary import Vocabulary

Pooling = Callable[[Tensor, Tensor], Tensor]
"""From hidden states [rows, tokens, width] and mask [rows, tokens] to vectors [rows, width]."""
_POSITION_OFFSETS = ("roberta", "xlm-roberta", "camembert", "mpnet")  # numbered from the padding token's id + 1
_KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True, slots=True)
class Encoder:
    """An embedding model, ready; for one thread at a time."""

    module: PreTrainedModel
    vocabulary: Vocabulary
    context_length: int
    width: int
    pooling: str
    normalize: bool
    dtype: str

    @torch.inference_mode()
    def embed(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Return the vectors [rows, width] of token lists, float32 on the CPU."""
        longest = max(map(len, rows))
        device = self.module.device
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
        states = self.module(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        vectors = _POOLINGS[self.pooling](states, mask.float())
        return (torch.nn.functional.normalize(vectors, dim=-1) if self.normalize else vectors).cpu()


def load_encoder(settings: WorkerSettings, report: Report) -> Encoder:
    """Load the embedding model that `settings` name. Raises `ConfigError` when it cannot be served."""
    report("reading weights")
    modules = _modules(settings.model_dir)
    root = settings.model_dir / modules.get("Transformer", "")
    config = AutoConfig.from_pretrained(root, local_files_only=True)
    device = choose_device(settings)
    dtype = choose_dtype(settings, device, getattr(config, "dtype", None))
    module = AutoModel.from_pretrained(root, dtype=dtype, local_files_only=True)
    module.eval().requires_grad_(False).to(device)
    tokenizer = AutoTokenizer.from_pretrained(root, local_files_only=True)
    encoder = Encoder(
        module,
        Vocabulary(tokenizer, module.get_input_embeddings().weight.shape[0], ()),
        _context(root, config, settings.context_length),
        int(config.get_text_config().hidden_size),
        _pooling(settings.model_dir / modules["Pooling"]) if "Pooling" in modules else "mean",
        "Normalize" in modules or not modules,
        str(module.dtype).removeprefix("torch."),
    )
    report("warming up")
    encoder.embed([encoder.vocabulary.encode("a", special=True) or [0]])
    return encoder


def _modules(directory: Path) -> dict[str, str]:
    """The parts of a sentence-transformers model and their folders; none for a plain checkpoint."""
    listed = _json(directory / "modules.json")
    if not isinstance(listed, list):
        return {}
    found = {str(one["type"]).rpartition(".")[2]: str(one.get("path", "")) for one in listed}
    if unknown := sorted(set(found) - set(_KNOWN_MODULES)):
        raise ConfigError(f"the model has parts that the torch engine does not know: {', '.join(unknown)}")
    return found


def _pooling(directory: Path) -> str:
    said = _json(directory / "config.json") or {}
    mode = said.get("pooling_mode")
    modes = [mode] if isinstance(mode, str) else [key for key, on in said.items() if key in _FLAGS and on is True]
    names = [_FLAGS.get(one, one) for one in modes]
    if len(names) != 1 or names[0] not in _POOLINGS:
        raise ConfigError(
            f"the model pools by {' and '.join(names) or 'nothing'}, which the torch engine does not know"
        )
    return names[0]


def _context(root: Path, config: Any, asked: int) -> int:
    """The longest text in tokens: what sentence-transformers was set to, else what there are positions for."""
    said = (_json(root / "sentence_bert_config.json") or {}).get("max_seq_length")
    positions = int(getattr(config.get_text_config(), "max_position_embeddings", None) or 0)
    if config.model_type in _POSITION_OFFSETS:
        positions -= int(config.pad_token_id or 1) + 1
    own = int(said or positions or 512)
    if asked > max(own, positions):
        raise ConfigError(f"context_length is {asked}, but the model has positions for {max(own, positions)} tokens")
    return asked or own


def _json(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def _mean_sqrt(states: Tensor, mask: Tensor) -> Tensor:
    return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).sqrt()


def _weighted_mean(states: Tensor, mask: Tensor) -> Tensor:
    return _mean(states, mask * torch.arange(1, mask.shape[1] + 1, device=mask.device))


def _greatest(states: Tensor, mask: Tensor) -> Tensor:
    return states.masked_fill(mask[..., None] == 0, -torch.inf).amax(1)


def _first(states: Tensor, mask: Tensor) -> Tensor:
    return states[:, 0]


def _last(states: Tensor, mask: Tensor) -> Tensor:
    return states[torch.arange(len(states), device=states.device), mask.sum(1).long() - 1]


_POOLINGS: dict[str, Pooling] = {
    "mean": _mean,
    "cls": _first,
    "max": _greatest,
    "lasttoken": _last,
    "weightedmean": _weighted_mean,
    "mean_sqrt_len_tokens": _mean_sqrt,
}
_FLAGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
}

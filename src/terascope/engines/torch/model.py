"""From a checkpoint's directory to a model that can answer."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel

from terascope.core.errors import ConfigError
from terascope.core.models import Task
from terascope.engines.torch import memory
from terascope.engines.torch.cache import BLOCK
from terascope.engines.torch.checkpoint import explained, read_model
from terascope.engines.torch.embeds import VectorForm
from terascope.engines.torch.packed import PackedModel, prepare
from terascope.engines.torch.settings import WorkerSettings
from terascope.engines.torch.unpack import gguf_file, unpack
from terascope.engines.torch.vocabulary import Vocabulary

Report = Callable[[str], None]
"""Told what the loading does now."""
_GENERATORS = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")
_STRETCHED = ("dynamic", "longrope")  # position codes that change with the longest row of a batch
_UNKNOWN_CONTEXT = 2048


@dataclass(frozen=True, slots=True)
class CausalModel:
    """A language model, ready."""

    packed: PackedModel
    vocabulary: Vocabulary
    context_length: int
    dtype: str
    form: VectorForm | None = None
    """That of vectors in place of tokens; None where the model does not take them."""

    @property
    def shows_states(self) -> bool:
        """Whether its last hidden states can be had: it has a part that gives them."""
        return self.packed.module.base_model is not self.packed.module

    @property
    def width(self) -> int:
        """How many numbers a hidden state has."""
        return int(self.packed.module.config.get_text_config().hidden_size)


def choose_device(settings: WorkerSettings) -> torch.device:
    """Return the device asked for, else a GPU if there is one. Raises `ConfigError` when it is not there."""
    device = torch.device(settings.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {settings.device}: there is no such device on this machine")
    return device


def choose_dtype(settings: WorkerSettings, device: torch.device, own: torch.dtype | None) -> torch.dtype:
    """Return the number type asked for; else float32 on a CPU, and on a GPU the checkpoint's own."""
    if settings.dtype:
        found: torch.dtype = getattr(torch, settings.dtype)
        return found
    return torch.float32 if device.type == "cpu" else own or torch.float32


def task_of(settings: WorkerSettings) -> Task:
    """Return what the checkpoint is for: as told, else as its files say."""
    if settings.task is not None:
        return settings.task
    if (settings.model_dir / "modules.json").exists():
        return Task.EMBED
    if gguf_file(settings.model_dir) is not None:
        return Task.GENERATE
    architectures = _json(settings.model_dir / "config.json").get("architectures") or [""]
    return Task.GENERATE if str(architectures[0]).endswith(_GENERATORS) else Task.EMBED


def load_causal(settings: WorkerSettings, report: Report) -> CausalModel:
    """Load the language model that `settings` name, check that it computes rightly, and make room for its cache.

    Raises `ConfigError` when it cannot be served as configured.
    """
    device = choose_device(settings)
    with explained(settings.model_dir):
        module, tokenizer = read_checkpoint(settings, device, report)
    module.eval().requires_grad_(False).to(device)
    report("warming up")
    vocabulary = Vocabulary(tokenizer, logits_width(module), ends_of(module, tokenizer))
    bytes_per_token = prepare(module)
    context = context_of(module.config, settings.context_length)
    packed = PackedModel(module, _cache_tokens(settings, context, bytes_per_token, device))
    packed.find_fixed_rows()
    form = VectorForm(module.get_input_embeddings().weight.shape[1], module.dtype) if packed.takes_vectors() else None
    return CausalModel(packed, vocabulary, context, str(module.dtype).removeprefix("torch."), form)


def read_checkpoint(settings: WorkerSettings, device: torch.device, report: Report) -> tuple[PreTrainedModel, Any]:
    """Return the language model that `settings` name, with its tokenizer. Raises what reading it raises."""
    packed_file = gguf_file(settings.model_dir)
    if packed_file is None:
        return _read_plain(settings, settings.model_dir, device, report)
    dtype = choose_dtype(settings, device, None)
    ready = settings.converted_dir / str(dtype).removeprefix("torch.") if settings.converted_dir else None
    if ready is not None and ready.exists():
        return _read_plain(settings, ready, device, report)
    report("converting GGUF")
    return unpack(packed_file, dtype, ready)


def _read_plain(
    settings: WorkerSettings, directory: Path, device: torch.device, report: Report
) -> tuple[PreTrainedModel, Any]:
    report("reading weights")
    config = AutoConfig.from_pretrained(directory, local_files_only=True)
    dtype = choose_dtype(settings, device, getattr(config, "dtype", None))
    return read_model(directory, dtype), AutoTokenizer.from_pretrained(directory, local_files_only=True)


def context_of(config: PretrainedConfig, asked: int) -> int:
    """The longest row in tokens. Raises `ConfigError` when more is asked than the model has positions for."""
    text = config.get_text_config(decoder=True)
    own = max(0, int(getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None) or 0))
    rope = getattr(text, "rope_parameters", None) or {}
    if rope.get("rope_type") in _STRETCHED:
        own = int(rope.get("original_max_position_embeddings") or own)
    if asked and own and asked > own:
        raise ConfigError(f"context_length is {asked}, but the model has positions for {own} tokens")
    return asked or own or _UNKNOWN_CONTEXT


def _cache_tokens(settings: WorkerSettings, context: int, bytes_per_token: int, device: torch.device) -> int:
    """Room for as many full rows as may run, or for what memory allows."""
    wanted = settings.cache_tokens or (settings.max_batch + settings.extra_rows) * (context + BLOCK)
    fits = memory.for_cache(device) // bytes_per_token
    tokens = wanted if settings.cache_tokens else min(wanted, fits)
    if tokens < context + BLOCK:
        raise ConfigError(
            f"one request of {context} tokens needs {context + BLOCK} tokens of KV cache, that is "
            f"{(context + BLOCK) * bytes_per_token / 2**20:.0f} MiB at {bytes_per_token} bytes each; there is room for "
            f"{tokens}. Set context_length lower, or cache_tokens higher if there is memory"
        )
    return tokens


def logits_width(module: PreTrainedModel) -> int:
    """How many logits the model gives for a token."""
    head = module.get_output_embeddings()
    return int(head.weight.shape[0] if head is not None else module.config.get_text_config().vocab_size)


def ends_of(module: PreTrainedModel, tokenizer: Any) -> list[int]:
    """The tokens that end an answer: what the generation settings say, and the tokenizer's own."""
    said = module.generation_config.eos_token_id if module.generation_config else None
    found = {*(said if isinstance(said, list) else [said]), tokenizer.eos_token_id} - {None}
    return sorted(token for token in found if 0 <= token < logits_width(module))


def _json(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text()) if path.exists() else {}
    return value if isinstance(value, dict) else {}

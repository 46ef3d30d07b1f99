"""Embedding models: texts to vectors, as sentence-transformers describes them in a checkpoint's files."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel

from terascope.core.errors import ConfigError
from terascope.engines.torch.batching import Batching, choose, first_position
from terascope.engines.torch.checkpoint import read_encoder
from terascope.engines.torch.model import Report, choose_device, choose_dtype
from terascope.engines.torch.pooling import EACH, POOLINGS, Ask, pooling_names
from terascope.engines.torch.settings import WorkerSettings
from terascope.engines.torch.text_attention import Texts
from terascope.engines.torch.vocabulary import Vocabulary

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
    batching: Batching
    layers: int = 0
    matryoshka: frozenset[int] = frozenset()
    """The dimensions that its checkpoint says it was trained to be cut to."""

    @property
    def ask(self) -> Ask:
        """What it is asked for by default."""
        return Ask(self.pooling)

    @torch.inference_mode()
    def embed(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Return the vectors [rows, width] of token lists, in their order, float32 on the CPU.

        The vector of a row is the same whatever the others are, as far as numbers of its type can be.
        """
        vectors = torch.stack(self.pooled(rows, [self.ask] * len(rows)))
        return torch.nn.functional.normalize(vectors, dim=-1) if self.normalize else vectors

    @torch.inference_mode()
    def pooled(self, rows: Sequence[Sequence[int]], asks: Sequence[Ask]) -> list[Tensor]:
        """Return what each of `rows` is asked for, [width] or [tokens, width], not normalized; else as `embed`."""
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        texts = Texts([len(rows[row]) for row in order], self.module.device)
        ids = torch.tensor([token for row in order for token in rows[row]], device=self.module.device)
        states = self.batching.layers(ids, texts, {ask.layer for ask in asks if ask.layer is not None})
        found: list[Tensor] = [torch.empty(0)] * len(rows)
        for ask in set(asks):
            vectors = _pool(states[ask.layer].float(), texts, ask)
            for row, vector in zip(order, vectors, strict=True):
                if asks[row] == ask:
                    found[row] = vector
        return found


def _pool(states: Tensor, texts: Texts, ask: Ask) -> Sequence[Tensor]:
    """The vectors of each text, on the CPU."""
    if ask.pooling == EACH:
        return torch.split(states.cpu(), texts.lengths.tolist())
    return POOLINGS[ask.pooling](states, texts).cpu().unbind()


def load_encoder(settings: WorkerSettings, report: Report) -> Encoder:
    """Load the embedding model that `settings` name. Raises `ConfigError` when it cannot be served."""
    report("reading weights")
    modules = _modules(settings.model_dir)
    root = settings.model_dir / modules.get("Transformer", "")
    config = AutoConfig.from_pretrained(root, local_files_only=True)
    device = choose_device(settings)
    dtype = choose_dtype(settings, device, getattr(config, "dtype", None))
    module = read_encoder(root, dtype)
    module.eval().requires_grad_(False).to(device)
    module.config.use_cache = False  # decoders would keep what no later token asks for
    tokenizer = AutoTokenizer.from_pretrained(root, local_files_only=True)
    context = _context(root, module, settings.context_length)
    report("warming up")
    encoder = Encoder(
        module,
        Vocabulary(tokenizer, module.get_input_embeddings().weight.shape[0], ()),
        context,
        int(config.get_text_config().hidden_size),
        _pooling(settings.model_dir / modules["Pooling"]) if "Pooling" in modules else "mean",
        "Normalize" in modules or not modules,
        str(module.dtype).removeprefix("torch."),
        choose(module, context),
        int(getattr(config.get_text_config(), "num_hidden_layers", 0)),
        trained_dimensions(config),
    )
    encoder.embed([encoder.vocabulary.encode("a", special=True) or [0]])
    return encoder


def trained_dimensions(config: PretrainedConfig) -> frozenset[int]:
    """Return the dimensions that a checkpoint's `matryoshka_dimensions` names, the key that vLLM reads, too."""
    said = getattr(config, "matryoshka_dimensions", None)
    return frozenset(one for one in said if isinstance(one, int)) if isinstance(said, list) else frozenset()


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
    names = pooling_names(_json(directory / "config.json") or {})
    if len(names) != 1 or names[0] not in POOLINGS:
        raise ConfigError(
            f"the model pools by {' and '.join(names) or 'nothing'}, which the torch engine does not know"
        )
    return names[0]


def _context(root: Path, module: PreTrainedModel, asked: int) -> int:
    """The longest text in tokens: what sentence-transformers was set to, else what there are positions for."""
    said = (_json(root / "sentence_bert_config.json") or {}).get("max_seq_length")
    positions = int(getattr(module.config.get_text_config(), "max_position_embeddings", None) or 0)
    positions -= first_position(module) if positions else 0
    own = int(said or positions or 512)
    if asked > max(own, positions):
        raise ConfigError(f"context_length is {asked}, but the model has positions for {max(own, positions)} tokens")
    return asked or own


def _json(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None

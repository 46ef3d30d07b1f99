"""GGUF checkpoints, unpacked once into plain tensors that the next start reads in no time."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from terascope.core.errors import ConfigError
from terascope.engines.torch.checkpoint import check_loaded

_PRE_TOKENIZER_KEY = "tokenizer.ggml.pre"


def gguf_file(directory: Path) -> Path | None:
    """Return the GGUF file that is the checkpoint in `directory`; none when it holds one of transformers.

    Raises `ConfigError` when there are several to choose from.
    """
    if (directory / "config.json").exists():
        return None
    found = sorted(path for path in directory.glob("*.gguf") if not path.name.startswith("mmproj"))
    if len(found) > 1:
        raise ConfigError(f"{directory} holds {len(found)} GGUF files; the torch engine needs exactly one")
    return found[0] if found else None


def unpack(file: Path, dtype: torch.dtype, into: Path | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load `file` with its weights as `dtype`; also save it to `into`, whole or not at all."""
    with _parsing_once() as reader:
        options = {"gguf_file": file.name, "dtype": dtype, "local_files_only": True, "output_loading_info": True}
        model, info = AutoModelForCausalLM.from_pretrained(file.parent, **options, ignore_mismatched_sizes=True)
        check_loaded(file.parent, model, info)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
        _mend(tokenizer, _field(reader(str(file)), _PRE_TOKENIZER_KEY))
    _forget_origin(model)
    if into is not None:
        save(model, tokenizer, into)
    return model, tokenizer


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, into: Path) -> None:
    """Write a checkpoint to `into`, whole or not at all; where that fails it is not there, which is no error."""
    into.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{into.name}-", dir=into.parent))
    try:
        model.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        draft.chmod(0o755)
        draft.rename(into)
    except OSError:  # a full disk, or another worker was first: this one has its model all the same
        shutil.rmtree(draft, ignore_errors=True)


def _forget_origin(model: PreTrainedModel) -> None:
    """Make `model` an ordinary one: its weights are plain tensors now, though transformers calls it quantized."""
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def _mend(tokenizer: PreTrainedTokenizerBase, pre_tokenizer: str) -> None:
    """Split text as the vocabulary was learned where transformers does not know how: `smollm` splits digits."""
    if pre_tokenizer == "smollm":
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )


def _field(reader: Any, key: str) -> str:
    field = reader.get_field(key)
    return str(field.contents()) if field is not None else ""


@contextmanager
def _parsing_once() -> Iterator[Any]:
    """Have the file parsed once: transformers parses it for configuration, weights and tokenizer, seconds each."""
    reader, names = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader, gguf.get_tensor_name_map = cache(reader), cache(names)
    try:
        yield gguf.GGUFReader
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = reader, names

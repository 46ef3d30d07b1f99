"""Whether the files of a checkpoint belong together: what is missing, transformers fills up with random numbers."""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel

from terascope.core.errors import ConfigError, ServiceError
from terascope.engines.torch import memory

_log = logging.getLogger(__name__)
_NAMED = 3  # weights named in an error
_UNUSED = ("pooler.",)  # of encoders: many checkpoints come without it, and no vector is made with it
_NUMBER = re.compile(r"\d+")


@contextmanager
def explained(directory: Path) -> Iterator[None]:
    """Turn whatever reading `directory` raises, except for want of memory, into a `ConfigError` that says so."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ServiceError) or memory.was_too_little(error):
            raise
        words = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        raise ConfigError(f"the checkpoint in {directory} cannot be loaded: {words}") from error


def read_model(directory: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Return the language model in `directory`, its weights as `dtype`.

    Raises `ConfigError` when config.json and the weights contradict each other.
    """
    return _read(AutoModelForCausalLM, directory, dtype)


def read_encoder(directory: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Return the model in `directory` without what is on top of its last layer. Raises as `read_model` does."""
    return _read(AutoModel, directory, dtype)


def _read(kind: type[AutoModel | AutoModelForCausalLM], directory: Path, dtype: torch.dtype) -> PreTrainedModel:
    model, info = kind.from_pretrained(
        directory, dtype=dtype, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True
    )
    check_loaded(directory, model, info)
    found: PreTrainedModel = model
    return found


def check_loaded(directory: Path, model: PreTrainedModel, info: Mapping[str, Any]) -> None:
    """Look at what transformers says of loading `model` with `output_loading_info`.

    Raises `ConfigError` when weights are missing, of another shape, or of layers beyond the last.
    """
    own = {_pattern(name) for name in model.state_dict()}
    wrong = [f"{name} is {list(has)} but should be {list(wants)}" for name, has, wants in info["mismatched_keys"]]
    missing = [f"{name} is missing" for name in info["missing_keys"] if not name.startswith(_UNUSED)]
    spare = set(info["unexpected_keys"])
    beyond = [f"{name} is one too many" for name in spare if _pattern(name) in own]
    if found := sorted(wrong) or sorted(missing) or sorted(beyond):
        more = f", and {len(found) - _NAMED} more like this" if len(found) > _NAMED else ""
        raise ConfigError(
            f"config.json and the weights in {directory} contradict each other: {'; '.join(found[:_NAMED])}{more}. "
            "Restore the config.json that belongs to these weights"
        )
    if spare:
        _log.warning("weights that the model has no place for", extra={"weights": sorted(spare)[:_NAMED]})


def _pattern(name: str) -> str:
    """`name` without the numbers of layers and experts in it."""
    return _NUMBER.sub("#", name)

"""Which file of a model's directory OpenVINO reads, and whether it reads it rightly."""

import json
from dataclasses import dataclass
from pathlib import Path

import gguf

from terascope.core.errors import ConfigError

_RIGHT = frozenset({"F32", "F16", "BF16", "Q8_0"})
"""Kinds of weights that OpenVINO's reader takes as they are; it requantizes others, and the answers change."""
_WORDS = ("openvino_tokenizer.xml", "openvino_detokenizer.xml")
_CONVERT = "python -m terascope.engines.openvino.convert"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is loaded: a GGUF file, or a directory in OpenVINO's own form; 0 tokens when it does not say."""

    path: Path
    context_length: int


def find(directory: Path) -> Checkpoint:
    """Return the checkpoint in `directory`. Raises `ConfigError` when there is none that would be read rightly."""
    if (directory / "openvino_model.xml").exists():
        _check_words(directory)
        return Checkpoint(directory, _configured(directory / "config.json"))
    files = sorted(directory.glob("*.gguf"))
    if len(files) != 1:
        raise ConfigError(
            f"{directory} holds {len(files)} GGUF files and no openvino_model.xml; the openvino engine reads one "
            "GGUF file in F16 or Q8_0, or a model in OpenVINO's own form; for others choose engine `torch`"
        )
    return _checked(files[0])


def _check_words(directory: Path) -> None:
    for name in _WORDS:
        if not (directory / name).exists():
            raise ConfigError(
                f"{directory} has openvino_model.xml but not {name}; make it of the model's tokenizer: "
                "convert_tokenizer MODEL --with-detokenizer -o DIRECTORY"
            )


def _checked(file: Path) -> Checkpoint:
    reader = gguf.GGUFReader(file)
    kinds = {tensor.tensor_type.name for tensor in reader.tensors}
    if wrong := sorted(kinds - _RIGHT):
        raise ConfigError(
            f"{file.name} has weights in {', '.join(wrong)}, which OpenVINO would change; write it anew in F16 or "
            f"Q8_0: {_CONVERT} {file.name} NEW.gguf"
        )
    architecture = reader.get_field("general.architecture")
    length = reader.get_field(f"{architecture.contents()}.context_length") if architecture else None
    return Checkpoint(file, int(length.contents()) if length else 0)


def _configured(file: Path) -> int:
    said = json.loads(file.read_text()) if file.exists() else {}
    return int(said.get("max_position_embeddings") or 0)

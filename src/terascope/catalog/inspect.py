"""What a model directory holds, read from its small files and headers; no weight is loaded."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from terascope.catalog.files import unreadable
from terascope.catalog.gguf import GgufHeader, read_gguf
from terascope.catalog.safetensors import count_parameters
from terascope.core.errors import BadRequest
from terascope.core.models import ModelFile, Task

_GENERATORS = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length", "n_ctx")
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "mpnet")
_GGUF_SPLIT = re.compile(r"-\d{5}-of-(\d{5})\.gguf\Z")
_GGUF_ENCODERS = ("t5encoder", "gemma-embedding")
_TOKENIZER_FILES = re.compile(
    r"(tokenizer[^/]*\.(json|model)|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt"
    r"|(spiece|sentencepiece[^/]*)\.model|tekken\.json|[^/]*\.tiktoken|tokenization_[^/]*\.py)\Z"
)
_LARGEST_JSON = 64 * 1024 * 1024
_FRONT_MATTER = 64 * 1024
_EXPERTS = ("n_routed_experts", "num_experts", "num_local_experts")
_EXPERTS_USED = ("num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_topk")
_LARGEST_INTEGER = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Facts:
    """What a model says of itself. Empty or 0 means that it does not say."""

    task: Task
    context_length: int = 0
    architecture: str = ""
    parameters: int = 0
    licence: str = ""
    chat_template_sha256: str = ""
    tokenizer_sha256: str = ""
    active_parameters: int = 0


def describe(directory: Path) -> Facts:
    """Read what `directory` holds: a transformers checkpoint, a sentence-transformers model, or GGUF.

    Raises `BadRequest` when it is none of them, lacks weights it names, or a file is damaged.
    """
    try:
        names = sorted(entry.name for entry in directory.iterdir())
    except OSError as error:
        raise unreadable(error) from error
    ggufs = [name for name in names if name.endswith(".gguf") and not name.startswith("mmproj")]
    root = _transformer(directory)
    if (root / "config.json").exists() and not (ggufs and not _has_weights(root)):
        return _from_config(directory, root)
    if ggufs:
        return _from_gguf(directory, ggufs)
    raise BadRequest(
        f"{directory} holds no model: looked for config.json, modules.json or *.gguf and found "
        f"{_sample(names) or 'nothing'}",
        param="source",
    )


def tokenizer_sha256(files: Iterable[ModelFile]) -> str:
    """Return the sha256 over the lines `sha256  path` of the tokenizer's files; empty without any."""
    lines = sorted(f"{file.sha256}  {file.path}\n" for file in files if _TOKENIZER_FILES.match(file.path))
    return hashlib.sha256("".join(lines).encode()).hexdigest() if lines else ""


def _from_config(directory: Path, root: Path) -> Facts:
    config = _json(root / "config.json")
    architecture = _first(config.get("architectures"))
    parameters, experts = _parameters(root)
    return Facts(
        task=_task(directory, config, architecture),
        context_length=_context(root, config),
        architecture=(architecture or str(config.get("model_type", "")))[:100],
        parameters=parameters,
        active_parameters=parameters - _idle(config, experts),
        licence=readme_licence(directory),
        chat_template_sha256=_sha256(_chat_template(directory)),
    )


def _transformer(directory: Path) -> Path:
    """Where the transformer itself is: sentence-transformers may keep it in a folder of its own."""
    modules = _json_list(directory / "modules.json")
    path = modules[0].get("path", "") if modules and isinstance(modules[0], dict) else ""
    inner = directory / path if isinstance(path, str) and ".." not in Path(path).parts else directory
    return inner if (inner / "config.json").exists() else directory


def _task(directory: Path, config: Mapping[str, Any], architecture: str) -> Task:
    if (directory / "modules.json").exists():
        return Task.EMBED
    if architecture.endswith(_GENERATORS) or "AutoModelForCausalLM" in _mapping(config.get("auto_map")):
        return Task.GENERATE
    if not architecture and (directory / "generation_config.json").exists():
        return Task.GENERATE
    return Task.EMBED


def _context(root: Path, config: Mapping[str, Any]) -> int:
    """The longest input in tokens: what sentence-transformers was set to, else what the positions allow."""
    sentence = root / "sentence_bert_config.json"
    if sentence.exists() and (length := _whole(_json(sentence).get("max_seq_length"))):
        return length
    for part in (config, _mapping(config.get("text_config")), _mapping(config.get("llm_config"))):
        for key in _CONTEXT_KEYS:
            if length := _whole(part.get(key)):
                return max(0, length - _position_offset(part))
    return 0


def _position_offset(config: Mapping[str, Any]) -> int:
    """RoBERTa and its kin number positions from the padding token's id + 1."""
    if config.get("model_type") not in _OFFSET_POSITIONS:
        return 0
    return _whole(config.get("pad_token_id"), 1) + 1


def _has_weights(root: Path) -> bool:
    return any(next(root.glob(pattern), None) for pattern in ("*.safetensors", "*.bin", "*.pt", "*.pth"))


def _idle(config: Mapping[str, Any], experts: int) -> int:
    """How many of the parameters in `experts` a token does not pass through."""
    for part in (config, _mapping(config.get("text_config")), _mapping(config.get("llm_config"))):
        there = next((count for key in _EXPERTS if (count := _whole(part.get(key)))), 0)
        used = next((count for key in _EXPERTS_USED if (count := _whole(part.get(key)))), 0)
        if 0 < used < there:
            return experts * (there - used) // there
    return 0


def _parameters(root: Path) -> tuple[int, int]:
    """Count the parameters and those of routed experts, and see that every file is there; pickles are not opened."""
    if names := _weight_files(root, "model.safetensors", "*.safetensors"):
        counts = [count_parameters(root / name) for name in names]
        return sum(count for count, _ in counts), sum(experts for _, experts in counts)
    if _weight_files(root, "pytorch_model.bin", "*.bin") or _has_weights(root):
        return 0, 0
    raise BadRequest(f"{root} has a config.json and no weights: looked for *.safetensors and *.bin", param="source")


def _weight_files(root: Path, single: str, pattern: str) -> Sequence[str]:
    index = root / f"{single}.index.json"
    if index.exists():
        names = sorted({str(name) for name in _mapping(_json(index).get("weight_map")).values()})
        if missing := [name for name in names if not (root / name).exists()]:
            raise BadRequest(
                f"{root} is incomplete: {index.name} names {_sample(missing)}, not there; fetch it again",
                param="source",
            )
        return names
    if (root / single).exists():
        return [single]
    return sorted(path.name for path in root.glob(pattern))


def _chat_template(directory: Path) -> str:
    """The template transformers would use: a file of its own before the tokenizer's configuration."""
    file = directory / "chat_template.jinja"
    if file.exists():
        return _text(file)
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (directory / name).exists() and (template := _json(directory / name).get("chat_template")):
            return template if isinstance(template, str) else json.dumps(template, sort_keys=True)
    return ""


def readme_licence(directory: Path) -> str:
    """Return `license` of the model card's front matter, or `license_name` where that says "other"."""
    readme = directory / "README.md"
    if not readme.exists() or not (head := _text(readme)[:_FRONT_MATTER]).startswith("---"):
        return ""
    try:
        card = _mapping(yaml.safe_load(head.split("\n---", 1)[0].removeprefix("---")))
    except (yaml.YAMLError, RecursionError):
        return ""  # a card is for people: one that cannot be read is no reason to refuse the model
    licence = _first(card.get("license"))
    return (str(card.get("license_name") or licence) if licence == "other" else licence)[:100]


def _from_gguf(directory: Path, names: Sequence[str]) -> Facts:
    parts = _gguf_parts(directory, names)
    headers = [read_gguf(directory / name) for name in parts]
    first = headers[0]
    kind = first.text("general.architecture")
    return Facts(
        task=_gguf_task(first, kind),
        context_length=_whole(first.number(f"{kind}.context_length")),
        architecture=kind[:100],
        parameters=sum(header.parameters for header in headers),
        licence=(first.text("general.license") or readme_licence(directory))[:100],
        chat_template_sha256=_sha256(first.text("tokenizer.chat_template")),
        tokenizer_sha256=first.tokenizer_sha256,
    )


def _gguf_parts(directory: Path, names: Sequence[str]) -> Sequence[str]:
    """One file, or all parts of one that was split."""
    split = _GGUF_SPLIT.search(names[0])
    stems = {_GGUF_SPLIT.sub("", name) for name in names}
    if len(stems) > 1 or (len(names) > 1 and not split):
        raise BadRequest(
            f"{directory} holds several models ({_sample(names)}); put one into a directory of its own and add it "
            "with path:DIR",
            param="source",
        )
    if split and len(names) != int(split[1]):
        raise BadRequest(
            f"{directory} is incomplete: {len(names)} of {int(split[1])} parts of {names[0]} are there; fetch it again",
            param="source",
        )
    return names


def _gguf_task(header: GgufHeader, kind: str) -> Task:
    pools = header.number(f"{kind}.pooling_type") > 0 or header.metadata.get(f"{kind}.attention.causal") is False
    return Task.EMBED if pools or "bert" in kind or kind in _GGUF_ENCODERS else Task.GENERATE


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise BadRequest(f"{path} is too large to be what its name says", param="source")
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise unreadable(error) from error


def _json(path: Path) -> Mapping[str, Any]:
    value = _json_value(path)
    if not isinstance(value, dict):
        raise BadRequest(f"{path} is not a JSON object", param="source")
    return value


def _json_list(path: Path) -> Sequence[Any]:
    if not path.exists():
        return ()
    value = _json_value(path)
    return value if isinstance(value, list) else ()


def _json_value(path: Path) -> object:
    try:
        return json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"{path} is not JSON: {error}", param="source") from error


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _first(value: object) -> str:
    """A text, or the first text of a list."""
    while isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, str) else ""


def _whole(value: object, default: int = 0) -> int:
    """A whole number that a column of the database holds."""
    return (
        value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST_INTEGER else default
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest() if text else ""


def _sample(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")

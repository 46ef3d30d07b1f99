"""What a LoRA adapter's own files say, as PEFT writes them: `adapter_config.json` and the names of its tensors.

Only what adds `scale * B A x` to the outputs of linear layers is taken; all else is refused, never left out silently.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from terascope.core.errors import BadRequest

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
BASE_DIGEST = "terascope_base_digest"
"""The key of `adapter_config.json` that says which files the adapter was trained on, where it was trained here."""
MOST_RANK = 1024
_PREFIX = "base_model.model."
_KEY = re.compile(r"(?P<module>.+)\.lora_(?P<part>[AB])\.weight")
_LONGEST_PATTERN, _MOST_PATTERNS = 300, 10_000
_PATTERN = re.compile(r"[A-Za-z0-9_.^$|()\\\[\]-]+")  # no quantifiers: such a pattern cannot take long to match

_KNOWN = frozenset({
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying",
    "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config", "megatron_config",
    "megatron_core", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern", "revision",
    "runtime_config", "target_modules", "task_type", "use_rslora", BASE_DIGEST,
})  # fmt: skip
"""Settings that are read below, that choose what the tensors' names say anyway, or that matter in training alone."""
_MEANINGS = {
    "use_dora": "DoRA scales whole weights, not only the added term",
    "modules_to_save": "it replaces whole modules of the base model",
    "lora_bias": "it has biases of its own",
    "target_parameters": "it changes parameters that are no linear layers, such as those of experts",
    "trainable_token_indices": "it replaces embeddings of tokens",
    "layer_replication": "it repeats layers of the base model",
    "alora_invocation_tokens": "it acts only behind an invocation",
}
_OTHER_TENSORS = (
    ("lora_embedding_", "it changes the embeddings of tokens"),
    ("lora_magnitude_vector", "it is a DoRA adapter"),
    (".lora_A.bias", "it has biases of its own"),
    (".lora_B.bias", "it has biases of its own"),
)
_CHANGES_BASE = ("pissa", "olora", "corda", "lora_ga", "loftq")  # ways to begin that change the base's weights too


@dataclass(frozen=True, slots=True)
class LoraSpec:
    """The numbers of an adapter. `ranks` and `alphas` are those of single modules, by patterns of their paths."""

    rank: int
    alpha: float
    rank_stabilised: bool = False
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    base: str = ""
    base_digest: str = ""

    def rank_of(self, module: str) -> int:
        """The rank of `module`, a path such as `model.layers.0.self_attn.q_proj`."""
        return self.ranks.get(_fitting(self.ranks, module), self.rank)

    def scale_of(self, module: str) -> float:
        """What B A x is multiplied by."""
        rank = self.rank_of(module)
        alpha = self.alphas.get(_fitting(self.alphas, module), self.alpha)
        return alpha / (math.sqrt(rank) if self.rank_stabilised else rank)


def read_spec(text: bytes) -> LoraSpec:
    """Read the bytes of `adapter_config.json`. Raises `BadRequest` for what is damaged or cannot be served."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refused(f"{CONFIG} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise _refused(f"{CONFIG} is not a JSON object")
    if (kind := config.get("peft_type")) != "LORA":
        raise _refused(f"{CONFIG} says peft_type {str(kind)[:40]!r}; adapters of type LORA are served")
    _check_method(config)
    return LoraSpec(
        rank=_rank(config.get("r"), "r"),
        alpha=_number(config.get("lora_alpha"), "lora_alpha"),
        rank_stabilised=bool(config.get("use_rslora")),
        ranks={key: _rank(value, f"rank_pattern.{key}") for key, value in _patterns(config, "rank_pattern")},
        alphas={key: _number(value, f"alpha_pattern.{key}") for key, value in _patterns(config, "alpha_pattern")},
        base=str(config.get("base_model_name_or_path") or "")[:500],
        base_digest=str(config.get(BASE_DIGEST) or "")[:64],
    )


def modules_of(spec: LoraSpec, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """Return the modules that the tensors in `shapes` (by name) change, each with its input's and output's width.

    Raises `BadRequest` for tensors that are no pairs of A [rank, in] and B [out, rank], and for other ranks than
    `spec` says.
    """
    pairs: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        module, part = _parse(name)
        pairs.setdefault(module, {})[part] = shape
    if not pairs:
        raise _refused(f"{WEIGHTS} has no tensors")
    return {module: _widths(module, spec.rank_of(module), pair) for module, pair in pairs.items()}


def names_of(module: str) -> tuple[str, str]:
    """The names of A and B of a module."""
    return f"{_PREFIX}{module}.lora_A.weight", f"{_PREFIX}{module}.lora_B.weight"


def check_files(names: Iterable[str]) -> None:
    """Raise `BadRequest` when a directory with these files is no adapter that can be read safely."""
    there = set(names)
    if PICKLE in there and WEIGHTS not in there:
        raise _refused(
            f"{PICKLE} is a pickle, and reading a pickle can run any code: it is not opened. Where you trust it, "
            f"convert it: safetensors.torch.save_file(torch.load('{PICKLE}', weights_only=True), '{WEIGHTS}')"
        )
    if missing := [name for name in (CONFIG, WEIGHTS) if name not in there]:
        raise _refused(f"there is no {' and no '.join(missing)}; give the directory that PEFT's save_pretrained wrote")


def _widths(module: str, rank: int, pair: Mapping[str, tuple[int, ...]]) -> tuple[int, int]:
    down, up = pair.get("A", ()), pair.get("B", ())
    if len(down) != 2 or len(up) != 2 or down[0] != up[1] or not all((*down, *up)):
        raise _refused(
            f"the adapter's A {list(down)} and B {list(up)} of {module[:200]} are no pair: they must be [rank, in] and "
            "[out, rank] of a linear layer"
        )
    if down[0] != rank:
        raise _refused(f"the adapter's rank at {module[:200]} is {down[0]}, but {CONFIG} says {rank}")
    return down[1], up[0]


def _parse(name: str) -> tuple[str, str]:
    if why := next((why for part, why in _OTHER_TENSORS if part in name), ""):
        raise _refused(f"{WEIGHTS} has {name[:200]!r}: {why}, which is not supported")
    found = _KEY.fullmatch(name.removeprefix(_PREFIX))
    if found is None or not name.startswith(_PREFIX):
        raise _refused(f"{WEIGHTS} has {name[:200]!r}, which is no A or B of a linear layer as PEFT names them")
    return found["module"], found["part"]


def _check_method(config: Mapping[str, Any]) -> None:
    """Refuse settings that change what is computed and that are not carried out here."""
    if config.get("bias", "none") != "none":
        raise _refused(f"{CONFIG} has bias {str(config['bias'])[:20]!r}: it changes biases of the base model")
    for name in sorted(config.keys() - _KNOWN):
        if config[name]:
            why = _MEANINGS.get(name, "it may change what the adapter computes")
            raise _refused(f"{CONFIG} has {name[:60]!r} set: {why}, which is not supported")
    begun = config.get("init_lora_weights")
    if isinstance(begun, str) and begun.lower().startswith(_CHANGES_BASE):
        raise _refused(
            f"{CONFIG} has init_lora_weights {begun[:40]!r}, which changes the base model's weights too; save the "
            "adapter with path_initial_model_for_weight_conversion, which makes an ordinary LoRA of it"
        )


def _patterns(config: Mapping[str, Any], name: str) -> Iterable[tuple[str, Any]]:
    found = config.get(name) or {}
    if not isinstance(found, dict) or len(found) > _MOST_PATTERNS:
        raise _refused(f"{CONFIG}: {name} must be an object of at most {_MOST_PATTERNS} patterns")
    for key in found:
        if len(key) > _LONGEST_PATTERN or not _PATTERN.fullmatch(key) or not _compiles(key):
            raise _refused(
                f"{CONFIG}: {name} has the pattern {key[:60]!r}; write names of modules, without quantifiers"
            )
    return found.items()


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except (re.error, OverflowError):
        return False
    return True


def _fitting(patterns: Iterable[str], module: str) -> str:
    """The first pattern that the end of a module's path matches, as PEFT looks for it."""
    return next((one for one in patterns if re.match(rf"(.*\.)?({one})$", module)), module)


def _rank(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_RANK:
        raise _refused(f"{CONFIG}: {name[:80]} is {str(value)[:40]}; a rank is a whole number from 1 to {MOST_RANK}")
    return value


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
        raise _refused(f"{CONFIG}: {name[:80]} is {str(value)[:40]}, which is no number")
    return float(value)


def _refused(message: str) -> BadRequest:
    return BadRequest(f"the adapter cannot be served: {message}", param="model")

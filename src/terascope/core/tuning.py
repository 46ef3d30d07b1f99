"""What a fine-tuning job is, to every room: its methods, its settings, its life cycle."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

TRAINED_SHARE = 3
"""What a trained token costs as against one of a prompt: the way there, and twice as much back."""


class TuningMethod(StrEnum):
    """What is trained; the base stays as it is."""

    LORA = "lora"  # small matrices beside the linear layers
    SOFT_PROMPT = "soft_prompt"  # vectors before every prompt
    PROJECTOR = "projector"  # a small network from somebody's vectors to the base's


class TuningStatus(StrEnum):
    """Where a job stands. `validating_files -> queued -> running -> succeeded` is the ordinary way."""

    VALIDATING = "validating_files"  # its data is copied and looked at line by line
    QUEUED = "queued"  # others train now
    RUNNING = "running"  # its trainer runs, or is about to be started again
    SUCCEEDED = "succeeded"  # the result is registered
    FAILED = "failed"  # its error says why
    CANCELLED = "cancelled"  # somebody asked for that

    @property
    def final(self) -> bool:
        """True when nothing will happen any more."""
        return not TUNING_TRANSITIONS[self]


_ENDS = frozenset({TuningStatus.FAILED, TuningStatus.CANCELLED})
TUNING_TRANSITIONS: dict[TuningStatus, frozenset[TuningStatus]] = {
    TuningStatus.VALIDATING: _ENDS | {TuningStatus.QUEUED},
    TuningStatus.QUEUED: _ENDS | {TuningStatus.RUNNING},
    TuningStatus.RUNNING: _ENDS | {TuningStatus.SUCCEEDED},
    TuningStatus.SUCCEEDED: frozenset(),
    TuningStatus.FAILED: frozenset(),
    TuningStatus.CANCELLED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """How a job trains. Numbers of steps are of the optimizer; 0 stands for what the comment says."""

    n_epochs: int = 3
    max_steps: int = 0  # 0: as many as the epochs have
    batch_size: int = 8  # lines in a step
    learning_rate: float = 2e-4
    schedule: str = "cosine"
    warmup_ratio: float = 0.05  # of all steps
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    held_out_share: float = 0.1  # of the lines, where there is no validation file
    eval_every: int = 0  # 0: at the end of each epoch
    checkpoint_every: int = 50
    micro_batch_tokens: int = 2048  # computed at once; a step with more is computed in parts
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ()  # empty: all linear layers but the last
    vectors: int = 16
    init_text: str = ""  # empty: tokens drawn by the seed
    hidden: tuple[int, ...] = (256,)
    activation: str = "gelu"

    def values(self) -> dict[str, Any]:
        """All of them by name, as JSON has them."""
        return {name: list(one) if isinstance(one, tuple) else one for name, one in asdict(self).items()}

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "Hyperparameters":
        """What `values` or `of` gave, or a part of it. Raises `TypeError` for other names."""
        plain: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in values.items()}
        return cls(**plain)

    def of(self, method: TuningMethod) -> dict[str, Any]:
        """Those that mean something to `method`, by name, as JSON has them."""
        others = {name for one, names in OWN_SETTINGS.items() if one is not method for name in names}
        return {name: value for name, value in self.values().items() if name not in others}


OWN_SETTINGS: dict[TuningMethod, tuple[str, ...]] = {
    TuningMethod.LORA: ("rank", "alpha", "dropout", "target_modules"),
    TuningMethod.SOFT_PROMPT: ("vectors", "init_text"),
    TuningMethod.PROJECTOR: ("hidden", "activation"),
}
"""Settings that only one method has."""
_USUAL = Hyperparameters()
DEFAULTS: dict[TuningMethod, Hyperparameters] = {
    TuningMethod.LORA: _USUAL,
    TuningMethod.SOFT_PROMPT: replace(_USUAL, learning_rate=1e-2),
    TuningMethod.PROJECTOR: replace(_USUAL, learning_rate=1e-3),
}
"""What is taken where a job does not say."""

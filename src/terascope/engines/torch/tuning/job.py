"""What the trainer is told: `job.json` in a directory of its own, in which everything it writes is, too."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from terascope.core.errors import ConfigError
from terascope.core.tuning import Hyperparameters, TuningMethod

JOB, PROGRESS, CHECKPOINTS, RESULT = "job.json", "progress.jsonl", "checkpoints", "result"
PROMPT_FILE, PROJECTOR_FILE = "soft_prompt.safetensors", "projector.safetensors"
ABOUT_FILE = "training.json"
"""Beside an adapter: how it was made. Soft prompts and projectors have it in their metadata."""
DONE, FAILED, STOPPED = 0, 1, 3
"""The trainer's exit status: it has finished, it will never finish (its last event says why), it was told to stop.
Every other one means that it can be started again, and goes on from its last checkpoint."""


@dataclass(frozen=True, slots=True)
class TuningJob:
    """A job. `base` is the `name@version` of the model in `model_dir`, `digest` that of its files."""

    id: str
    method: TuningMethod
    base: str
    digest: str
    model_dir: str
    training_file: str
    validation_file: str = ""
    seed: int = 0
    settings: Hyperparameters = field(default_factory=Hyperparameters)
    licence: str = ""
    converted_dir: str = ""
    device: str = ""
    dtype: str = ""
    threads: int = 0

    @property
    def fingerprint(self) -> str:
        """A digest of all that the result depends on but the data: checkpoints of another job are not taken."""
        told = [self.method, self.base, self.digest, self.seed, self.dtype, asdict(self.settings)]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def about(self, data_digest: str) -> str:
        """What a result says of how it was made, as JSON; the same for the same training."""
        told = {
            "method": self.method.value,
            "base": self.base,
            "base_digest": self.digest,
            "data_digest": data_digest,
            "seed": self.seed,
            "hyperparameters": self.settings.of(self.method),
        }
        return json.dumps(told, sort_keys=True)

    def write(self, directory: Path) -> None:
        """Put it into `directory` as `job.json`."""
        (directory / JOB).write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, directory: Path) -> "TuningJob":
        """Read what `write` wrote. Raises `ConfigError` when it is anything else."""
        try:
            return cls._of(json.loads((directory / JOB).read_text()))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"{directory / JOB} cannot be read: {type(error).__name__}: {error}") from None

    @classmethod
    def _of(cls, value: Mapping[str, Any]) -> "TuningJob":
        settings = Hyperparameters.read(value.get("settings", {}))
        return cls(**{**value, "method": TuningMethod(value["method"]), "settings": settings})

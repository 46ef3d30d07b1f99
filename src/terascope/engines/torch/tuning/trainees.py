"""What is trained: LoRA's matrices, a soft prompt's vectors, a projector's layers. PEFT makes the first two."""

import json
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import peft
import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from terascope.core.errors import BadRequest
from terascope.core.tuning import TuningMethod
from terascope.engines.torch.projector import ACTIVATIONS
from terascope.engines.torch.tuning.base import Base
from terascope.engines.torch.tuning.data import mixed_seed
from terascope.engines.torch.tuning.job import ABOUT_FILE, PROJECTOR_FILE, PROMPT_FILE, TuningJob
from terascope.engines.torch.tuning.safe import write_tensors, write_text
from terascope.internals.lora import BASE_DIGEST, CONFIG, WEIGHTS, modules_of, read_spec

_INTERNAL = ("base_model_name_or_path", "inference_mode", "task_type", "auto_mapping")


class Trainee(Protocol):
    """A part that is trained beside a frozen base. Its parameters are 32-bit floats."""

    before: int
    """How many vectors it puts before every row."""

    def parameters(self) -> Mapping[str, Parameter]:
        """Return what is trained, by name, always in the same order."""
        ...

    def prompt(self, rows: int) -> Tensor | None:
        """Return the vectors [rows, before, width] that stand before rows; None where there are none."""
        ...

    def mapped(self, vectors: Tensor) -> Tensor:
        """Return what stands in the base's input for the `vectors` [n, own width] of a line."""
        ...

    def train(self, mode: bool) -> None:
        """Let what is only there in training (dropout) be there, or not."""
        ...

    def save(self, directory: Path, about: str) -> Sequence[str]:
        """Write the result into `directory`, durably; return the names of its files. Raises `OSError`.

        `about` is JSON that says how it was made; it goes with the result.
        """
        ...


def make_trainee(job: TuningJob, base: Base, vector_width: int = 0) -> Trainee:
    """Return what `job` trains, as it begins: a function of the job's seed.

    Raises `BadRequest` where the base cannot be trained so.
    """
    torch.manual_seed(mixed_seed(job.seed, "beginning"))
    if job.method is TuningMethod.LORA:
        return LoraTrainee(job, base)
    if not base.takes_vectors:
        raise BadRequest(f"{job.base} takes no vectors in place of tokens, as a {job.method} needs it", param="model")
    return (
        SoftPromptTrainee(job, base)
        if job.method is TuningMethod.SOFT_PROMPT
        else ProjectorTrainee(job, base, vector_width)
    )


class LoraTrainee:
    """Matrices beside the base's linear layers, which PEFT puts in; the base's module is changed by that."""

    before = 0

    def __init__(self, job: TuningJob, base: Base) -> None:
        settings = job.settings
        self._job = job
        self._config = peft.LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=list(settings.target_modules) or "all-linear",
            bias="none",
            task_type="CAUSAL_LM",
        )
        try:
            self._model = peft.get_peft_model(base.module, self._config)
        except (ValueError, TypeError) as error:
            words = " ".join(str(error).split())[:300]
            raise BadRequest(
                f"target_modules: {job.base} cannot be trained so: {words}", param="target_modules"
            ) from None
        self._check(base)
        self._drops = [one for name, one in self._model.named_modules() if ".lora_dropout." in name]

    def parameters(self) -> Mapping[str, Parameter]:
        return {name: one for name, one in self._model.named_parameters() if one.requires_grad}

    def prompt(self, rows: int) -> Tensor | None:
        return None

    def mapped(self, vectors: Tensor) -> Tensor:
        return vectors

    def train(self, mode: bool) -> None:
        for one in self._drops:
            one.train(mode)

    def save(self, directory: Path, about: str) -> Sequence[str]:
        write_tensors(directory / WEIGHTS, self._weights())
        write_text(directory / CONFIG, json.dumps(self._told(), indent=1, sort_keys=True))
        card = f"---\nlicense: {self._job.licence}\n---\n" if self._job.licence else ""
        write_text(directory / "README.md", f"{card}# LoRA adapter of {self._job.base}\n")
        write_text(directory / ABOUT_FILE, about)
        return [CONFIG, WEIGHTS, "README.md", ABOUT_FILE]

    def _check(self, base: Base) -> None:
        """Raise `BadRequest` for what could not be served once it is trained."""
        if hasattr(base.module.get_output_embeddings(), "lora_A"):
            raise BadRequest("target_modules: the output head cannot be served with an adapter", param="target_modules")
        shapes = {name: tuple(one.shape) for name, one in self._weights().items()}
        try:
            modules_of(read_spec(json.dumps(self._told()).encode()), shapes)
        except BadRequest as error:
            raise BadRequest(f"target_modules: {error.message}", param="target_modules") from None

    def _weights(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = peft.get_peft_model_state_dict(self._model, save_embedding_layers=False)
        return found

    def _told(self) -> dict[str, Any]:
        """PEFT's configuration, with the base by its public name and digest and not by a path of this machine."""
        told = {name: _plain(value) for name, value in self._config.to_dict().items() if name not in _INTERNAL}
        common = {"base_model_name_or_path": self._job.base, "inference_mode": True, "task_type": "CAUSAL_LM"}
        return told | common | {BASE_DIGEST: self._job.digest}


class SoftPromptTrainee:
    """Vectors before every row, which PEFT keeps."""

    def __init__(self, job: TuningJob, base: Base) -> None:
        self.before = job.settings.vectors
        config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=self.before)
        beginning = _beginning(job, base)
        self._model = peft.get_peft_model(base.module, config)
        self._weight: Parameter = self._model.prompt_encoder["default"].embedding.weight
        self._weight.data = beginning

    def parameters(self) -> Mapping[str, Parameter]:
        return {"prompt": self._weight}

    def prompt(self, rows: int) -> Tensor | None:
        found: Tensor = self._model.get_prompt(batch_size=rows)
        return found

    def mapped(self, vectors: Tensor) -> Tensor:
        return vectors

    def train(self, mode: bool) -> None:
        pass

    def save(self, directory: Path, about: str) -> Sequence[str]:
        write_tensors(directory / PROMPT_FILE, {"prompt": self._weight}, {"training": about})
        return [PROMPT_FILE]


class ProjectorTrainee:
    """Linear layers with an activation between them."""

    before = 0

    def __init__(self, job: TuningJob, base: Base, vector_width: int) -> None:
        widths = [vector_width, *job.settings.hidden, base.width]
        layers = [nn.Linear(taken, given, device=base.device) for taken, given in pairwise(widths)]
        _like_embeddings(layers[-1], base)
        self._layers, self._device = nn.ModuleList(layers), base.device
        self._activation = ACTIVATIONS[job.settings.activation]

    def parameters(self) -> Mapping[str, Parameter]:
        return dict(self._layers.named_parameters())

    def prompt(self, rows: int) -> Tensor | None:
        return None

    def mapped(self, vectors: Tensor) -> Tensor:
        x = vectors.to(self._device)
        for number, layer in enumerate(self._layers):
            x = layer(self._activation(x) if number else x)
        return x

    def train(self, mode: bool) -> None:
        pass

    def save(self, directory: Path, about: str) -> Sequence[str]:
        write_tensors(directory / PROJECTOR_FILE, self.parameters(), {"training": about})
        return [PROJECTOR_FILE]


def _beginning(job: TuningJob, base: Base) -> Tensor:
    """The embeddings of `init_text`, repeated or cut, or of tokens drawn by the seed: [vectors, width]."""
    wanted = job.settings.vectors
    if job.settings.init_text:
        tokens = base.vocabulary.encode(job.settings.init_text, special=False)
        if not tokens:
            raise BadRequest("init_text has no tokens", param="init_text")
        tokens = (tokens * math.ceil(wanted / len(tokens)))[:wanted]
    else:
        tokens = torch.randint(0, base.vocabulary.size, (wanted,)).tolist()
    return base.embeds(torch.tensor(tokens, device=base.device)).detach().float().clone()


@torch.no_grad()
def _like_embeddings(last: nn.Linear, base: Base) -> None:
    """Let what the last layer gives lie where the base's embeddings lie: other vectors would drown its own."""
    table = base.module.get_input_embeddings().weight.float()
    last.weight.mul_(table.std())
    last.bias.copy_(table.mean(0))


def _plain(value: Any) -> Any:
    """A setting of PEFT as JSON has it."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    return getattr(value, "value", value)

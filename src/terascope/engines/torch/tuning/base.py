"""The model that is trained beside: loaded plainly, frozen, and looked at for what it can take."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from terascope.core.errors import BadRequest
from terascope.core.models import Task
from terascope.engines.torch.checkpoint import explained
from terascope.engines.torch.model import (
    choose_device,
    context_of,
    ends_of,
    logits_width,
    read_checkpoint,
    task_of,
)
from terascope.engines.torch.settings import WorkerSettings
from terascope.engines.torch.tuning.job import TuningJob
from terascope.engines.torch.vocabulary import Vocabulary

_TRIED = 5  # tokens of the row that the model is looked at with
_CLOSE = 1e-3


@dataclass(frozen=True, slots=True)
class Base:
    """A frozen language model. `end` is the token that ends a completion, where there is one."""

    module: PreTrainedModel
    vocabulary: Vocabulary
    context_length: int
    end: int | None
    takes_vectors: bool
    """Whether embeddings in place of tokens give the same."""
    parted: bool
    """Whether its logits are its head's output for its last states, so that they can be had of some tokens only."""

    @property
    def width(self) -> int:
        """How many numbers an embedding has."""
        return int(self.module.get_input_embeddings().weight.shape[1])

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        found: torch.device = self.module.get_input_embeddings().weight.device
        return found

    def embeds(self, tokens: Tensor) -> Tensor:
        """Return the embeddings [.., width] of `tokens`."""
        found: Tensor = self.module.get_input_embeddings()(tokens)
        return found


def load_base(job: TuningJob, report: Callable[[str], None]) -> Base:
    """Load the model of `job`. Raises `ConfigError` when its files are damaged, `BadRequest` when it makes no text."""
    converted = Path(job.converted_dir) if job.converted_dir else None
    settings = WorkerSettings(
        Path(job.model_dir), job.base, device=job.device, dtype=job.dtype, converted_dir=converted
    )
    if task_of(settings) is not Task.GENERATE:
        raise BadRequest(f"{job.base} makes no text, so nothing can be trained for it", param="model")
    device = choose_device(settings)
    with explained(settings.model_dir):
        module, tokenizer = read_checkpoint(settings, device, report)
    module.eval().requires_grad_(False).to(device)
    module.config.use_cache = False
    ends = ends_of(module, tokenizer)
    end = tokenizer.eos_token_id if tokenizer.eos_token_id in ends else next(iter(ends), None)
    vocabulary = Vocabulary(tokenizer, logits_width(module), ends)
    return Base(module, vocabulary, context_of(module.config, 0), end, *_looked_at(module, device))


@torch.no_grad()
def _looked_at(module: PreTrainedModel, device: torch.device) -> tuple[bool, bool]:
    """Whether the model takes vectors, and whether its head can be had apart: found by trying both."""
    row = torch.arange(1, 1 + _TRIED, device=device)[None] % logits_width(module)
    wanted = module(input_ids=row).logits
    return _same(wanted, lambda: module(inputs_embeds=module.get_input_embeddings()(row)).logits), _same(
        wanted, lambda: module.get_output_embeddings()(module.base_model(input_ids=row).last_hidden_state)
    )


def _same(wanted: Tensor, compute: Callable[[], Tensor]) -> bool:
    try:
        found = compute()
    except (ValueError, TypeError, AttributeError, RuntimeError):
        return False
    return found.shape == wanted.shape and torch.allclose(found, wanted, rtol=_CLOSE, atol=_CLOSE)

"""What one batch costs: the loss of the tokens that are learned, and of no others."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from terascope.engines.torch.attachment import VECTOR
from terascope.engines.torch.tuning.base import Base
from terascope.engines.torch.tuning.examples import Example
from terascope.engines.torch.tuning.trainees import Trainee


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples of one batch, filled up at their ends: [rows, longest]. `vectors` stand where `tokens` has `VECTOR`."""

    tokens: Tensor
    there: Tensor
    learned: Tensor
    vectors: Tensor | None

    @property
    def filled_up(self) -> bool:
        """Whether there are places in which nothing stands."""
        return not bool(self.there.all())


def batch_of(examples: Sequence[Example], device: torch.device) -> Batch:
    """Lay examples beside each other."""
    longest = max(map(len, examples))
    tokens = torch.zeros(len(examples), longest, dtype=torch.long)
    there, learned = torch.zeros_like(tokens, dtype=torch.bool), torch.zeros_like(tokens, dtype=torch.bool)
    for row, one in enumerate(examples):
        tokens[row, : len(one)] = torch.tensor(one.tokens)
        there[row, : len(one)] = True
        learned[row, : len(one)] = torch.tensor(one.learned)
    vectors = [one.vectors for one in examples if one.vectors is not None]
    placed = (tokens.to(device), there.to(device), learned.to(device))
    return Batch(*placed, torch.cat(vectors).to(device) if vectors else None)


def loss_sum(base: Base, trainee: Trainee, batch: Batch) -> Tensor:
    """Return the sum of the losses of all learned tokens, in nats.

    Only for those are the logits computed, where the base's head can be had apart.
    """
    inputs, before = _inputs(base, trainee, batch)
    rows, places = batch.learned.nonzero(as_tuple=True)
    logits = _logits(base, inputs, rows, places + before - 1)
    return functional.cross_entropy(logits.float(), batch.tokens[rows, places], reduction="sum")


def _inputs(base: Base, trainee: Trainee, batch: Batch) -> tuple[dict[str, Tensor], int]:
    """What the model gets, and how many vectors stand before each row."""
    prompt = trainee.prompt(len(batch.tokens))
    there = batch.there
    if prompt is None and batch.vectors is None:
        inputs = {"input_ids": batch.tokens}
    else:
        embeds = base.embeds(batch.tokens.clamp(min=0))
        if batch.vectors is not None:
            embeds = embeds.clone()
            embeds[batch.tokens == VECTOR] = trainee.mapped(batch.vectors).to(embeds.dtype)
        if prompt is not None:
            embeds = torch.cat([prompt.to(embeds.dtype), embeds], dim=1)
            there = torch.cat([there.new_ones(prompt.shape[:2]), there], dim=1)
        inputs = {"inputs_embeds": embeds}
    if batch.filled_up:
        inputs["attention_mask"] = there.long()
    return inputs, 0 if prompt is None else prompt.shape[1]


def _logits(base: Base, inputs: dict[str, Tensor], rows: Tensor, places: Tensor) -> Tensor:
    if not base.parted:
        whole: Tensor = base.module(**inputs, use_cache=False).logits
        return whole[rows, places]
    states = base.module.base_model(**inputs, use_cache=False).last_hidden_state
    found: Tensor = base.module.get_output_embeddings()(states[rows, places])
    return found

"""What a row may bring besides its tokens: embeddings in their place, and what it sees or changes in the model."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from transformers import PreTrainedModel

VECTOR = -1
"""Stands among a row's tokens where a vector is."""


@dataclass(frozen=True, slots=True)
class Insert:
    """Vectors [tokens, width] that stand for the embeddings of tokens, from `place` on.

    In a row's plan `place` counts from the row's beginning, in a step from the batch's.
    """

    place: int
    vectors: Tensor

    def within(self, start: int, end: int, shift: int) -> "Insert | None":
        """The part of it at the places from `start` to before `end`, moved on by `shift`; none if it has none."""
        first, last = max(start, self.place), min(end, self.place + len(self.vectors))
        if first >= last:
            return None
        return Insert(first + shift, self.vectors[first - self.place : last - self.place])


@dataclass(frozen=True, slots=True)
class Part:
    """Where a row stands in one step: the places `first` to before `last` of the batch, its positions from `start`.

    `tokens` are all that the row has so far, those of this step included. Logits are made for some places only: the
    row's are the `logits` of the step, those of its positions `logits_at`.
    """

    first: int
    last: int
    start: int
    tokens: Sequence[int] = ()
    logits: range = range(0)
    logits_at: Sequence[int] = ()


class Attachment(Protocol):
    """An intervention or a capture of one row. (Adapters of a step are computed together: `lora/terms.py`.)

    A step's activations are [1, tokens, ...]; whoever attaches may read and change those of its own part only. Rows
    with different attachments and with none share a step.
    """

    def attach(self, module: PreTrainedModel, part: Part) -> AbstractContextManager[None]:
        """Return what is entered before the forward pass of a step that holds `part`, and left after it.

        A hook returns new tensors: layers with one input are computed as one (linear.py) and do not see it changed in
        place.

        It must leave `module` as it was, also when the pass raises; what it raises itself fails the step's rows.
        """
        ...

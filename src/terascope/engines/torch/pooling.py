"""From the hidden states of texts to one vector for each, as sentence-transformers names the ways."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from terascope.engines.torch.text_attention import Texts

Pooling = Callable[[Tensor, Texts], Tensor]
"""From hidden states [tokens, width], text after text, to vectors [texts, width]."""


def _sum(states: Tensor, texts: Texts) -> Tensor:
    return states.new_zeros(len(texts.lengths), states.shape[1]).index_add_(0, texts.owners, states)


def _mean(states: Tensor, texts: Texts) -> Tensor:
    return _sum(states, texts) / texts.lengths[:, None]


def _mean_sqrt(states: Tensor, texts: Texts) -> Tensor:
    return _sum(states, texts) / texts.lengths[:, None].sqrt()


def _weighted_mean(states: Tensor, texts: Texts) -> Tensor:
    weights = texts.lengths * (texts.lengths + 1) / 2
    return _sum(states * (texts.ranks[:, None] + 1), texts) / weights[:, None]


def _greatest(states: Tensor, texts: Texts) -> Tensor:
    least = states.new_full((len(texts.lengths), states.shape[1]), -torch.inf)
    return least.scatter_reduce_(0, texts.owners[:, None].expand_as(states), states, "amax")


def _first(states: Tensor, texts: Texts) -> Tensor:
    return states[texts.starts]


def _last(states: Tensor, texts: Texts) -> Tensor:
    return states[texts.starts + texts.lengths - 1]


POOLINGS: Mapping[str, Pooling] = {
    "mean": _mean,
    "cls": _first,
    "max": _greatest,
    "lasttoken": _last,
    "weightedmean": _weighted_mean,
    "mean_sqrt_len_tokens": _mean_sqrt,
}
EACH = "none"
"""No pooling: a vector for each token."""
WIRE: Mapping[str, str] = {
    "last": "lasttoken",
    "mean": "mean",
    "cls": "cls",
    "max": "max",
    "weighted": "weightedmean",
    "none": EACH,
}
"""What requests call the ways, and what they are called here."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Which states of a text are wanted, and how they are pooled: a name of `POOLINGS`, or `EACH`.

    `layer` counts as transformers' `hidden_states`: 0 is what the first layer gets. None is what the model gives at its
    end.
    """

    pooling: str
    layer: int | None = None


_FLAGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
}


def pooling_names(said: Mapping[str, Any]) -> list[str]:
    """Return the ways of pooling that a checkpoint's pooling settings `said` ask for, known here or not."""
    mode = said.get("pooling_mode")
    modes = [mode] if isinstance(mode, str) else [key for key, on in said.items() if key in _FLAGS and on is True]
    return [_FLAGS.get(one, one) for one in modes]

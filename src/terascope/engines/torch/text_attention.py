"""Attention over texts that stand one after the other in one sequence, each of which sees only itself.

Registered with transformers under `NAME`; encoders and decoders that let their attention be chosen run with it
unchanged. Texts come sorted by length, so those of one length are neighbours: they are computed together, without
anything being copied or filled up.
"""

import itertools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "terascope-texts"
_NOT_KNOWN = ("position_bias", "softcap", "s_aux")  # what a model may ask of its attention that is not done here


@dataclass(frozen=True, slots=True)
class Group:
    """Texts of one length that stand next to each other: `count` of `length` tokens each from token `first` on."""

    first: int
    count: int
    length: int

    @property
    def part(self) -> slice:
        """Where their tokens are."""
        return slice(self.first, self.first + self.count * self.length)


@dataclass(slots=True)
class Seen:
    """What the attention of a model was asked for: how often, and through which windows."""

    calls: int = 0
    windows: set[int] = field(default_factory=set)


class Texts:
    """Where texts of `lengths`, which rise, stand in one sequence. For one forward pass and the pooling after it."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        """Raises `ValueError` when a text is empty or shorter than the one before it."""
        if list(lengths) != sorted(lengths) or not lengths or lengths[0] < 1:
            raise ValueError("lengths of texts begin at 1 and rise")
        self.tokens = sum(lengths)
        self.longest = lengths[-1]
        self.lengths = torch.tensor(list(lengths), device=device)
        self.starts = self.lengths.cumsum(0) - self.lengths
        self.owners = torch.arange(len(lengths), device=device).repeat_interleave(self.lengths)
        self.ranks = torch.arange(self.tokens, device=device) - self.starts[self.owners]
        self.groups = _groups(lengths)
        self.seen = Seen()
        self.attend: Callable[..., tuple[Tensor, None]] | None = None
        """What attends in place of the function below, called as transformers calls that."""
        self._masks: dict[tuple[int, int, bool], Tensor] = {}

    def mask(self, length: int, window: int, causal: bool, like: Tensor) -> Tensor | None:
        """[length, length]: 0 where a token may look, else minus infinity; none where a window hides nothing."""
        if not 0 < window < length:
            return None
        key = (length, window, causal)
        if key not in self._masks:
            at = torch.arange(length, device=like.device)
            back = at[:, None] - at
            hidden = (back.abs() >= window) | (back < 0 if causal else False)
            self._masks[key] = like.new_zeros(hidden.shape).masked_fill_(hidden, -math.inf)
        return self._masks[key]


@contextmanager
def at(texts: Texts) -> Iterator[None]:
    """Let `texts` be what the models of this thread attend over, for one forward pass."""
    _here.texts = texts
    try:
        yield
    finally:
        _here.texts = None


_here = threading.local()


def _attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend; `query` [1, heads, tokens, size], result [1, tokens, heads, size]."""
    texts: Texts | None = getattr(_here, "texts", None)
    if texts is None:
        raise RuntimeError("a packed model was called outside of a step")
    _check(texts, query, key, attention_mask, options)
    if texts.attend is not None:
        asked = {"scaling": scaling, "sliding_window": sliding_window, **options}
        return texts.attend(module, query, key, value, attention_mask, **asked)
    causal = _causal(module) if is_causal is None else is_causal
    window = sliding_window or 0
    texts.seen.calls += 1
    texts.seen.windows |= {window} - {0}
    result = query.new_empty(texts.tokens, query.shape[1], value.shape[-1])
    for group in texts.groups:
        mask = texts.mask(group.length, window, causal, query)
        found = scaled_dot_product_attention(
            _rows(query, group),
            _rows(key, group),
            _rows(value, group),
            attn_mask=mask,
            is_causal=causal and mask is None,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        result[group.part] = found.transpose(1, 2).flatten(0, 1)
    return result[None], None


def _check(texts: Texts, query: Tensor, key: Tensor, mask: Tensor | None, options: dict[str, Any]) -> None:
    """Raise `NotImplementedError` for what would silently be computed otherwise than the model means it."""
    if mask is not None:
        raise NotImplementedError("it makes attention masks of its own")
    if asked := [name for name in _NOT_KNOWN if options.get(name) is not None]:
        raise NotImplementedError(f"its attention needs {' and '.join(asked)}")
    if not query.shape[0] == key.shape[0] == 1 or not query.shape[2] == key.shape[2] == texts.tokens:
        raise NotImplementedError("its attention is not over the tokens of the texts")


def _causal(module: torch.nn.Module) -> bool:
    """As transformers decides it: by the module, unless the model is told to look both ways."""
    told = getattr(getattr(module, "config", None), "is_causal", None)
    return told is not False and bool(getattr(module, "is_causal", True))


def _rows(packed: Tensor, group: Group) -> Tensor:
    """[1, heads, tokens, size] to [count, heads, length, size] of the group; no copy."""
    part = packed[0, :, group.part]
    return part.view(part.shape[0], group.count, group.length, part.shape[-1]).transpose(0, 1)


def _groups(lengths: Sequence[int]) -> list[Group]:
    found, first = [], 0
    for length, same in itertools.groupby(lengths):
        found.append(Group(first, len(list(same)), length))
        first = found[-1].part.stop
    return found


AttentionInterface.register(NAME, _attend)

"""Attention of all rows of a step as one kernel: PyTorch's variable-length flash attention, on GPUs that have it.

Row by row, a step that reads 64 prompts is thousands of launches, and a GPU computes faster than it is told to. Where
the kernel cannot serve (a CPU, float32, models that bound their scores, rows that must not depend on their neighbours)
each row is computed by itself, which gives the same.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terascope.engines.torch.cache import BLOCK, blocks_for

if TYPE_CHECKING:
    from terascope.engines.torch.layout import Span


def _kernel() -> Callable[..., Tensor] | None:
    try:  # since PyTorch 2.10, with windows since 2.11
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return cast("Callable[..., Tensor]", varlen_attn)


_varlen = _kernel()
_OPTIONS = set(inspect.signature(_varlen).parameters) if _varlen is not None else set()
_GROUPED = {"enable_gqa": True} if "enable_gqa" in _OPTIONS else {}  # PyTorch 2.11 needs not be told
_DTYPES = (torch.bfloat16, torch.float16)
_LARGEST_HEAD = 256
_SINCE = (8, 0)  # compute capability


@dataclass(frozen=True, slots=True)
class Rows:
    """Where rows begin and end among the queries and among the keys, both [rows + 1], and where those keys are kept."""

    queries: Tensor
    keys: Tensor
    places: Tensor
    longest_queries: int
    longest_keys: int

    @classmethod
    def of(cls, spans: Sequence["Span"], device: torch.device) -> "Rows":
        """Those of `spans`, whose tokens stand one after the other."""
        return cls(
            _bounds([span.count for span in spans], device),
            _bounds([span.end for span in spans], device),
            torch.from_numpy(np.concatenate([_places(span) for span in spans])).to(device),
            max(span.count for span in spans),
            max(span.end for span in spans),
        )


def available(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether there is such a kernel for `dtype` on `device`."""
    if device.type != "cuda" or dtype not in _DTYPES or "window_size" not in _OPTIONS:
        return False
    return torch.cuda.get_device_capability(device) >= _SINCE


def takes(query: Tensor, value: Tensor) -> bool:
    """Whether heads of this size can be computed."""
    return query.shape[-1] == value.shape[-1] <= _LARGEST_HEAD and query.shape[-1] % 8 == 0


def attend(query: Tensor, keys: Tensor, values: Tensor, rows: Rows, scale: float, window: int) -> Tensor:
    """Return [tokens, heads, size] of `query` [heads, tokens, size], `keys` and `values` [key heads, all keys, size].

    `window` is how many tokens a token sees, itself one of them; 0 means all before it.
    """
    if _varlen is None:
        raise RuntimeError("this PyTorch has no such kernel")
    return _varlen(
        query.transpose(0, 1),
        keys.transpose(0, 1),
        values.transpose(0, 1),
        rows.queries,
        rows.keys,
        rows.longest_queries,
        rows.longest_keys,
        scale=scale,
        window_size=(window - 1 if window else -1, 0),
        **_GROUPED,
    )


def _places(span: "Span") -> NDArray[np.int64]:
    """Where all keys of a row are kept [end]; with numpy, as a step may see a million of them."""
    blocks = np.asarray(span.blocks[: blocks_for(span.end)], dtype=np.int64)
    found: NDArray[np.int64] = (blocks[:, None] * BLOCK + np.arange(BLOCK)).ravel()[: span.end]
    return found


def _bounds(lengths: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)

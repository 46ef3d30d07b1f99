"""The KV cache: one pool of blocks for all rows, and who has which.

A block holds the keys and values of `BLOCK` consecutive tokens of one row, in every layer. Block 0 belongs to
nobody and stays zero: it fills the tables of rows that are shorter than their neighbours.
"""

import math
from collections import deque
from collections.abc import Sequence
from mmap import mmap

import torch
from torch import Tensor

BLOCK = 16
"""Tokens per block."""


class BlockPool:
    """Hands out blocks. Those freed last are used first, so that little memory is touched."""

    def __init__(self, tokens: int) -> None:
        """Room for `tokens` tokens, rounded up to whole blocks."""
        self.blocks = blocks_for(tokens)
        self._free = deque(range(1, self.blocks + 1))

    @property
    def free(self) -> int:
        """Blocks that nobody has."""
        return len(self._free)

    def take(self, count: int) -> list[int]:
        """Return `count` blocks. There must be as many free."""
        return [self._free.popleft() for _ in range(count)]

    def give_back(self, blocks: Sequence[int]) -> None:
        """Free `blocks`."""
        self._free.extendleft(reversed(blocks))


class LayerStore:
    """Keys and values of one layer, [tokens of all blocks, heads, size], made when the first ones come."""

    def __init__(self, blocks: int) -> None:
        self._tokens = (blocks + 1) * BLOCK
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def write(self, places: Tensor, keys: Tensor, values: Tensor) -> None:
        """Put `keys` and `values` [tokens, heads, size] at `places` [tokens]."""
        if self._keys is None or self._values is None:
            self._keys, self._values = self._like(keys), self._like(values)
        self._keys.index_copy_(0, places, keys)
        self._values.index_copy_(0, places, values)

    def read(self, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values [rows, blocks x BLOCK, heads, size] of the table `blocks` [rows, blocks]."""
        if self._keys is None or self._values is None:
            raise RuntimeError("nothing has been written to this layer")
        return _gather(self._keys, blocks), _gather(self._values, blocks)

    def clear(self, blocks: Sequence[int]) -> None:
        """Zero `blocks`: what is not a number must not stay where it could be multiplied by 0 later."""
        for store in (self._keys, self._values):
            if store is not None:
                store.view(-1, BLOCK, *store.shape[1:])[list(blocks)] = 0

    def bytes_per_token(self) -> int:
        """What one token takes; 0 before the first."""
        stores = [store for store in (self._keys, self._values) if store is not None]
        return sum(store[0].numel() * store.element_size() for store in stores)

    def _like(self, sample: Tensor) -> Tensor:
        return _zeros((self._tokens, *sample.shape[1:]), sample.dtype, sample.device)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros that on a CPU take no memory until they are written: masked places must be numbers, not touched."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.frombuffer(mmap(-1, math.prod(shape) * dtype.itemsize), dtype=dtype).view(shape)


def _gather(store: Tensor, blocks: Tensor) -> Tensor:
    found = store.view(-1, BLOCK, *store.shape[1:]).index_select(0, blocks.flatten())
    return found.view(blocks.shape[0], -1, *store.shape[1:])


def blocks_for(tokens: int) -> int:
    """How many blocks hold `tokens` tokens."""
    return -(-tokens // BLOCK)

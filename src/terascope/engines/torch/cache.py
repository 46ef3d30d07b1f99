"""The KV cache: one pool of blocks for all rows, who has which, and which can be found again.

A block holds the keys and values of `BLOCK` consecutive tokens of one row, in every layer. A full block is known by
a digest of its tokens and vectors, of all before them, and of the scope in which they may be shared; a row that begins
with the same in the same scope takes the block over (as vLLM's automatic prefix caching does). A block that nobody has
keeps its content until the block is needed; the one unused longest goes first.

Block 0 belongs to nobody and stays zero: it fills the tables of rows that are shorter than their neighbours.
"""

import hashlib
import math
from array import array
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from itertools import takewhile
from mmap import mmap

import torch
from torch import Tensor

from terascope.engines.torch.attachment import Insert

BLOCK = 16
"""Tokens per block."""
_DIGEST_BYTES = 16
_EMPTY = "nothing has been written to this layer"


class BlockPool:
    """Hands out blocks. Not thread-safe. Blocks without content are taken first, those freed last before others."""

    def __init__(self, tokens: int) -> None:
        """Room for `tokens` tokens, rounded up to whole blocks."""
        self.blocks = blocks_for(tokens)
        self._users = [0] * (self.blocks + 1)
        self._blank = deque(range(1, self.blocks + 1))
        self._resting: OrderedDict[int, None] = OrderedDict()  # with content but without a user, oldest first
        self._by_digest: dict[bytes, int] = {}
        self._digest_of: dict[int, bytes] = {}

    @property
    def free(self) -> int:
        """Blocks that can be taken: nobody has them."""
        return len(self._blank) + len(self._resting)

    @property
    def kept(self) -> int:
        """Those of them that can be found by their digest still."""
        return len(self._resting)

    def take(self, count: int) -> list[int]:
        """Return `count` blocks. There must be as many free."""
        return [self._take_one() for _ in range(count)]

    def find(self, digests: Sequence[bytes]) -> list[int]:
        """Return the blocks of as many of `digests`, from the first on, as are known."""
        found = takewhile(lambda block: block is not None, map(self._by_digest.get, digests))
        return [block for block in found if block is not None]

    def resting(self, blocks: Sequence[int]) -> int:
        """How many of `blocks` nobody has."""
        return sum(block in self._resting for block in blocks)

    def share(self, blocks: Sequence[int]) -> None:
        """Add a user to each of `blocks`, which were found."""
        for block in blocks:
            self._resting.pop(block, None)
            self._users[block] += 1

    def publish(self, block: int, digest: bytes) -> None:
        """Let `block` be found by `digest`, unless another one is."""
        if digest not in self._by_digest and block not in self._digest_of:
            self._by_digest[digest] = block
            self._digest_of[block] = digest

    def give_back(self, blocks: Sequence[int]) -> list[int]:
        """Take a user from each of `blocks`, a row's in order; return those whose content is of no more use.

        The last of a row is the first to go: what a beginning is followed by is worth less than the beginning.
        """
        blank = []
        for block in reversed(blocks):
            self._users[block] -= 1
            if self._users[block] == 0 and block in self._digest_of:
                self._resting[block] = None
            elif self._users[block] == 0:
                self._blank.appendleft(block)
                blank.append(block)
        return blank

    def check(self) -> None:
        """Raise `RuntimeError` when a block is in no or in several places; a mistake of ours."""
        used = {block for block in range(1, self.blocks + 1) if self._users[block] > 0}
        places = [*used, *self._blank, *self._resting]
        lost = len(places) != self.blocks or len(set(places)) != self.blocks
        if lost or {block: digest for digest, block in self._by_digest.items()} != self._digest_of:
            raise RuntimeError("the block pool has lost count")

    def _take_one(self) -> int:
        if self._blank:
            block = self._blank.popleft()
        else:
            block, _ = self._resting.popitem(last=False)
            del self._by_digest[self._digest_of.pop(block)]
        self._users[block] = 1
        return block


class Digests:
    """The digests of a row's full blocks, made when they are asked for."""

    def __init__(self, scope: str, tokens: list[int], inserts: Sequence[Insert] = ()) -> None:
        """`tokens` may grow later, but never change; `inserts` are vectors in place of some of them."""
        self._tokens = tokens
        self._inserts = inserts
        self._last = hashlib.blake2b(scope.encode(), digest_size=_DIGEST_BYTES).digest()
        self._made: list[bytes] = []

    def first(self, count: int) -> Sequence[bytes]:
        """The digests of the first `count` blocks, all of which must be full."""
        self._made.extend(self._next() for _ in range(len(self._made), count))
        return self._made[:count]

    def between(self, first: int, last: int) -> Iterator[tuple[int, bytes]]:
        """The numbers and digests of the blocks from `first` to before `last`."""
        return zip(range(first, last), self.first(last)[first:], strict=True)

    def _next(self) -> bytes:
        start = len(self._made) * BLOCK
        data = self._last + array("q", self._tokens[start : start + BLOCK]).tobytes()
        for insert in self._inserts:
            part = insert.within(start, start + BLOCK, -start)
            data += b"" if part is None else part.place.to_bytes(1) + _bytes(part.vectors)
        self._last = hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()
        return self._last


class LayerStore:
    """Keys and values of one layer, [heads, tokens of all blocks, size], made when the first ones come.

    Heads come first so that what `read` gathers for a batch of rows needs no rearranging before it is multiplied.
    """

    def __init__(self, blocks: int) -> None:
        self._tokens = (blocks + 2) * BLOCK
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def write(self, places: Tensor, keys: Tensor, values: Tensor) -> None:
        """Put `keys` and `values` [heads, tokens, size] at `places` [tokens]."""
        if self._keys is None or self._values is None:
            self._keys, self._values = self._like(keys), self._like(values)
        self._keys.index_copy_(1, places, keys)
        self._values.index_copy_(1, places, values)

    def read(self, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values [heads, rows, blocks x BLOCK, size] of the table `blocks` [rows, blocks]."""
        if self._keys is None or self._values is None:
            raise RuntimeError(_EMPTY)
        return _gather(self._keys, blocks), _gather(self._values, blocks)

    def read_places(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values [heads, tokens, size] of the tokens at `places` [tokens]."""
        if self._keys is None or self._values is None:
            raise RuntimeError(_EMPTY)
        return _select(self._keys, places), _select(self._values, places)

    def clear(self, blocks: Sequence[int]) -> None:
        """Zero `blocks`: what is not a number must not stay where it could be multiplied by 0 later."""
        for store in (self._keys, self._values):
            if store is not None:
                store.view(store.shape[0], -1, BLOCK, store.shape[-1])[:, list(blocks)] = 0

    def bytes_per_token(self) -> int:
        """What one token takes; 0 before the first."""
        stores = [store for store in (self._keys, self._values) if store is not None]
        return sum(store.shape[0] * store.shape[-1] * store.element_size() for store in stores)

    def _like(self, sample: Tensor) -> Tensor:
        return _zeros((sample.shape[0], self._tokens, sample.shape[-1]), sample.dtype, sample.device)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros that on a CPU take no memory until they are written: masked places must be numbers, not touched."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.frombuffer(mmap(-1, math.prod(shape) * dtype.itemsize), dtype=dtype).view(shape)


def _gather(store: Tensor, blocks: Tensor) -> Tensor:
    heads, _, size = store.shape
    found = _select(store.view(heads, -1, BLOCK * size), blocks.flatten())
    return found.view(heads, blocks.shape[0], -1, size)


def _select(store: Tensor, index: Tensor) -> Tensor:
    """Return [heads, len(index), size] of `store` [heads, entries, size].

    A GPU copies entries of one long list three times faster than entries of each head; for a CPU it is the other way
    round, by much more.
    """
    if store.device.type == "cpu":
        return store.index_select(1, index)
    heads, entries, size = store.shape
    first = torch.arange(0, heads * entries, entries, device=store.device)
    return store.view(-1, size).index_select(0, (first[:, None] + index).flatten()).view(heads, -1, size)


def _bytes(vectors: Tensor) -> bytes:
    return vectors.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def blocks_for(tokens: int) -> int:
    """How many blocks hold `tokens` tokens."""
    return -(-tokens // BLOCK)

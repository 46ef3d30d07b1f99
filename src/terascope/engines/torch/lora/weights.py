"""One adapter in memory: what it adds to the outputs of linear layers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Pair:
    """One module's term: `down` [rank, in] is A, `up` [rank, out] is B transposed and multiplied by the scale."""

    down: Tensor
    up: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """An adapter in memory, by the paths of the modules whose outputs it adds to. Two of them are never equal."""

    name: str
    digest: str
    pairs: Mapping[str, Pair] = field(repr=False)

    @property
    def nbytes(self) -> int:
        """What its weights take."""
        return sum(pair.down.nbytes + pair.up.nbytes for pair in self.pairs.values())

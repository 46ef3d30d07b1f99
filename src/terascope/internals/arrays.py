"""Arrays without a library: bytes, a type and a shape, as a safetensors file has them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class DType(StrEnum):
    """Types of elements, by the names of safetensors. All are little-endian."""

    F64 = "F64"
    F32 = "F32"
    F16 = "F16"
    BF16 = "BF16"
    I64 = "I64"
    I32 = "I32"
    U8 = "U8"

    @property
    def size(self) -> int:
        """Bytes of an element."""
        return {"BF16": 2, "F16": 2, "F32": 4, "F64": 8, "I64": 8, "I32": 4, "U8": 1}[self]

    @property
    def is_float(self) -> bool:
        """Whether elements may be fractions."""
        return self in (DType.F64, DType.F32, DType.F16, DType.BF16)


@dataclass(frozen=True, slots=True)
class Array:
    """Elements in C order. `data` has exactly as many bytes as `shape` and `dtype` ask for."""

    dtype: DType
    shape: tuple[int, ...]
    data: bytes | memoryview = field(repr=False)

    @property
    def elements(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes its elements have."""
        return self.elements * self.dtype.size

    def part(self, index: int) -> "Array":
        """What is at `index` of the first axis; shares the bytes."""
        size = math.prod(self.shape[1:]) * self.dtype.size
        return Array(self.dtype, self.shape[1:], memoryview(self.data)[index * size : (index + 1) * size])


Nested = float | Sequence["Nested"]

"""Arrays without a library: bytes, a type and a shape, as a safetensors file has them."""

import math
import struct
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from terascope.core.errors import BadRequest

Nested = float | Sequence["Nested"]
"""Numbers as JSON has them: one, or lists of equal length in each other."""


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
        return {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1}[self]

    @property
    def is_float(self) -> bool:
        """Whether elements may be fractions."""
        return self in (DType.F64, DType.F32, DType.F16, DType.BF16)


_CODES = {DType.F64: "d", DType.F32: "f", DType.I64: "q", DType.I32: "i", DType.U8: "B"}
_EXPONENTS = {DType.F16: 0x7C00, DType.BF16: 0x7F80}
"""The bits that are all set in an infinite number and in NaN."""


@dataclass(frozen=True, slots=True)
class Array:
    """Elements in C order. `data` has exactly as many bytes as `shape` and `dtype` ask for."""

    dtype: DType
    shape: tuple[int, ...]
    data: bytes | memoryview = field(repr=False)

    @classmethod
    def of(cls, value: Nested) -> "Array":
        """Numbers as 32-bit floats. Raises `BadRequest` for lists of unequal length and for what F32 cannot hold."""
        shape = _shape(value)
        found = array("f")
        try:
            for number in _flat(value, shape):
                found.append(number)
        except OverflowError:
            raise BadRequest("a number is too large for a 32-bit float") from None
        one = cls(DType.F32, shape, _little(found))
        if not one.is_finite():
            raise BadRequest("a number is not finite as a 32-bit float")
        return one

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

    def is_finite(self) -> bool:
        """Whether no element is NaN or infinite; whole numbers are finite."""
        if self.dtype in _EXPONENTS:
            mask = _EXPONENTS[self.dtype]
            return all(bits & mask != mask for bits in set(self._elements("H")))
        if not self.dtype.is_float:
            return True
        elements = self._elements(_CODES[self.dtype])
        return math.isfinite(sum(elements)) or all(map(math.isfinite, elements))

    def as_f32(self) -> "Array":
        """The same numbers as 32-bit floats; those that have no place there become infinite."""
        if self.dtype is DType.F32:
            return self
        if self.dtype is DType.BF16:
            return Array(DType.F32, self.shape, self._widened())
        return Array(DType.F32, self.shape, _little(array("f", self.numbers())))

    def numbers(self) -> list[float]:
        """Its elements in one flat list."""
        if self.dtype is DType.BF16:
            return list(struct.unpack(f"<{self.elements}f", self._widened()))
        return list(struct.unpack(f"<{self.elements}{_CODES.get(self.dtype, 'e')}", self.data))

    def _widened(self) -> bytes:
        """BF16 is the upper half of F32."""
        data, found = bytes(self.data), bytearray(2 * self.nbytes)
        found[2::4], found[3::4] = data[0::2], data[1::2]
        return bytes(found)

    def _elements(self, code: str) -> "array[Any]":
        found = array(code)
        found.frombytes(self.data)
        if sys.byteorder == "big":
            found.byteswap()
        return found


def _little(numbers: "array[float]") -> bytes:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def _shape(value: Nested) -> tuple[int, ...]:
    shape = []
    while not isinstance(value, float | int):
        shape.append(len(value))
        if not value:
            raise BadRequest("an array needs at least one number along each axis")
        value = value[0]
    return tuple(shape)


def _flat(value: Nested, shape: Sequence[int]) -> Iterator[float]:
    if isinstance(value, float | int):
        if shape:
            raise BadRequest("the lists of an array must be of equal length and depth")
        yield value
        return
    if not shape or len(value) != shape[0]:
        raise BadRequest("the lists of an array must be of equal length and depth")
    for one in value:
        yield from _flat(one, shape[1:])

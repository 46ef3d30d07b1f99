"""Bytes of a column as NumPy has them."""

from typing import Any

import numpy as np

from terascope.client.capture.block import Column
from terascope.internals.arrays import DType

KINDS = {
    DType.F64: "<f8", DType.F32: "<f4", DType.F16: "<f2", DType.BF16: "<f4", DType.I64: "<i8", DType.I32: "<i4",
    DType.U8: "u1",
}  # fmt: skip
"""What elements become: NumPy has no BF16, and 32-bit floats have all its values."""


def numbers(data: bytes, column: Column) -> np.ndarray[Any, np.dtype[Any]]:
    """The rows, of shape [rows, *column.shape]."""
    if column.dtype is DType.BF16:
        found = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    else:
        found = np.frombuffer(data, KINDS[column.dtype])
    return found.reshape(-1, *column.shape)

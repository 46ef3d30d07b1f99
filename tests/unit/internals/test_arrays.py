"""Arrays without a library, compared with numpy and struct."""

import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.core.errors import BadRequest
from terascope.internals.arrays import Array, DType

_NUMPY = {DType.F64: "<f8", DType.F32: "<f4", DType.F16: "<f2", DType.I64: "<i8", DType.I32: "<i4", DType.U8: "u1"}
bits = st.binary(min_size=8, max_size=64).map(lambda raw: raw[: len(raw) // 8 * 8])


def bfloat16(raw: bytes) -> list[float]:
    return [struct.unpack("<f", b"\0\0" + raw[at : at + 2])[0] for at in range(0, len(raw), 2)]


@given(bits, st.sampled_from(sorted(_NUMPY)))
def test_numbers_and_finiteness_are_numpys(raw: bytes, dtype: DType) -> None:
    expected = np.frombuffer(raw, _NUMPY[dtype])
    one = Array(dtype, expected.shape, raw)
    np.testing.assert_array_equal(one.numbers(), expected.astype("f8") if dtype.is_float else expected)
    assert one.is_finite() == bool(np.isfinite(expected).all())
    assert (one.elements, one.nbytes, dtype.size) == (expected.size, expected.nbytes, expected.itemsize)


@given(bits)
def test_bfloat16_is_the_upper_half_of_a_float(raw: bytes) -> None:
    one, expected = Array(DType.BF16, (len(raw) // 2,), raw), bfloat16(raw)
    np.testing.assert_array_equal(one.numbers(), expected)
    assert one.is_finite() == all(map(math.isfinite, expected))


@given(st.binary(max_size=64), st.sampled_from([DType.F64, DType.F32, DType.F16, DType.BF16]))
def test_wider_and_narrower_floats_are_the_same_numbers(raw: bytes, dtype: DType) -> None:
    data = raw[: len(raw) // dtype.size * dtype.size]
    one = Array(dtype, (len(data) // dtype.size,), data)
    found = one.as_f32()
    assert (found.dtype, found.shape) == (DType.F32, one.shape)
    with np.errstate(over="ignore", invalid="ignore"):
        assert np.array_equal(
            np.array(found.numbers(), "f4"), np.array(one.numbers(), "f8").astype("f4"), equal_nan=True
        )


@given(st.integers(1, 3), st.integers(1, 4), st.data())
def test_lists_become_floats_in_their_order(rows: int, columns: int, data: st.DataObject) -> None:
    value = data.draw(
        st.lists(
            st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=columns, max_size=columns),
            min_size=rows,
            max_size=rows,
        )
    )
    one = Array.of(value)
    assert (one.dtype, one.shape) == (DType.F32, (rows, columns))
    assert [one.part(row).numbers() for row in range(rows)] == value
    assert one.part(rows - 1).shape == (columns,)


def test_a_number_alone_has_no_axes() -> None:
    assert Array.of(2.5).shape == ()
    assert Array.of(2.5).numbers() == [2.5]


@pytest.mark.parametrize("value", [[], [[]], [[1.0], [1.0, 2.0]], [1.0, [2.0]], [[1.0], 2.0], 1e39, [float("nan")]])
def test_ragged_empty_and_infinite_lists_are_refused(value: list[float]) -> None:
    with pytest.raises(BadRequest):
        Array.of(value)


def test_large_sums_of_finite_numbers_are_finite() -> None:
    assert Array(DType.F64, (2,), struct.pack("<2d", 1.7e308, 1.7e308)).is_finite()

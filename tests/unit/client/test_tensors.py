"""A safetensors file is read while it comes, however its bytes are cut."""

import json
import struct
from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from terascope.client.tensors import NamedArray, TensorReader
from terascope.core.errors import BadRequest, EngineError, GatewayUnreachable
from terascope.internals.arrays import Array, DType
from terascope.internals.packing import Layout, Spec, unpack

NUMPY = {DType.F64: "f8", DType.F32: "f4", DType.F16: "f2", DType.I64: "i8", DType.I32: "i4", DType.U8: "u1"}
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9).filter(lambda n: n != "__metadata__")
shapes = st.dictionaries(names, st.tuples(st.sampled_from(sorted(NUMPY)), st.lists(st.integers(0, 5), max_size=3)))


def pieces(data: bytes, cuts: Iterable[int]) -> Iterator[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return (data[start:end] for start, end in pairwise(edges))


def read(reader: TensorReader, data: Iterable[bytes]) -> list[NamedArray]:
    found = [one for piece in data for one in reader.feed(piece)]
    reader.end()
    return found


def written(wanted: dict[str, tuple[DType, list[int]]], metadata: dict[str, str]) -> bytes:
    numbers = {name: np.ones(shape, NUMPY[dtype]) for name, (dtype, shape) in wanted.items()}
    return safetensors.numpy.save(numbers, metadata or None)


def file(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(**other: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | other


@given(shapes, st.dictionaries(st.text("abc", max_size=3), st.text()), st.lists(st.integers(0, 2**16)))
def test_what_the_library_writes_is_read_however_it_is_cut(
    wanted: dict[str, tuple[DType, list[int]]], metadata: dict[str, str], cuts: list[int]
) -> None:
    data = written(wanted, metadata)
    reader = TensorReader()
    found = read(reader, pieces(data, cuts))
    expected, told = unpack(data)
    assert {spec.name: (one.dtype, one.shape, bytes(one.data)) for spec, one in found} == {
        name: (one.dtype, one.shape, bytes(one.data)) for name, one in expected.items()
    }
    assert reader.metadata == told
    assert reader.specs == tuple(spec for spec, _ in found)


def test_an_array_comes_with_its_last_byte_and_one_is_kept_at_a_time() -> None:
    specs = [Spec(name, DType.F32, (2, 1), ("token", "channel")) for name in "abc"]
    layout = Layout.of(specs)
    reader = TensorReader()
    came = []
    for byte in b"".join(layout.stream([Array(DType.F32, (2, 1), bytes(8))] * 3)):
        came.append([spec.name for spec, _ in reader.feed(bytes([byte]))])
        assert len(reader._part) < max(8, len(layout.head))
    assert came[-1] == ["c"]
    assert came[-9] == ["b"]
    assert [spec.axes for spec in reader.specs or ()] == [("token", "channel")] * 3


def test_arrays_do_not_share_bytes_with_what_came() -> None:
    data = bytearray(file({"a": entry()}, struct.pack("<f", 3.0)))
    [(_, one)] = TensorReader().feed(memoryview(data))
    data[-4:] = bytes(4)
    assert one.numbers() == [3.0]


def test_nothing_is_reserved_for_what_is_announced_only() -> None:
    reader = TensorReader()
    huge = {"a": entry(shape=[2**58], data_offsets=[0, 2**60])}
    assert list(reader.feed(file(huge, bytes(100)))) == []
    assert len(reader._part) == 100
    with pytest.raises(GatewayUnreachable, match="incomplete"):
        reader.end()


@given(shapes.filter(bool), st.integers(1))
def test_a_file_that_breaks_off_is_not_taken_for_whole(wanted: dict[str, tuple[DType, list[int]]], cut: int) -> None:
    data = written(wanted, {})
    reader = TensorReader()
    list(reader.feed(data[: cut % len(data)]))
    if not reader.whole:  # empty arrays at the end are whole without their last byte
        with pytest.raises(GatewayUnreachable):
            reader.end()
    else:
        assert all(0 in shape for _, shape in wanted.values())


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<Q", 0),
        struct.pack("<Q", 2**63),
        struct.pack("<Q", 100_000_001),
        file(b"{"),
        file(b"[" * 100_000),
        file([]),
        file({"a": entry(dtype="F8_E4M3")}, bytes(4)),
        file({"a": entry(shape=[2])}, bytes(4)),
        file({"a": entry(data_offsets=[4, 8])}, bytes(8)),
        file({"a": entry(), "b": entry()}, bytes(4)),
        file({"__metadata__": {"axes": "{"}}),
        file({"__metadata__": {"axes": "[" * 100_000}}),
        file({"__metadata__": {"axes": 1}}),
        file({"a": entry()}, bytes(5)),
    ],
    ids=repr,
)
def test_anything_else_is_an_error_of_the_engine(data: bytes) -> None:
    with pytest.raises(EngineError):
        list(TensorReader().feed(data))


def test_a_header_may_be_limited_further() -> None:
    with pytest.raises(EngineError, match="no header"):
        list(TensorReader(longest_header=10).feed(file({"a": entry()}, bytes(4))))


@pytest.mark.parametrize("axes", [[], ["token"], {"a": ["token", "channel"]}, {"a": [1]}, {"a": "token"}, None])
def test_axes_that_do_not_fit_are_none(axes: object) -> None:
    data = file({"__metadata__": {"axes": json.dumps(axes)}, "a": entry()}, bytes(4))
    [(spec, _)] = TensorReader().feed(data)
    assert spec.axes == ()


@given(st.binary(max_size=200), st.lists(st.integers(0, 300)))
def test_any_bytes_are_read_as_unpack_reads_them(data: bytes, cuts: list[int]) -> None:
    for one in (data, file(data)):
        try:
            expected = unpack(one)[0]
        except BadRequest:
            with pytest.raises((EngineError, GatewayUnreachable)):
                read(TensorReader(), pieces(one, cuts))
            continue
        assert {spec.name for spec, _ in read(TensorReader(), pieces(one, cuts))} == set(expected)

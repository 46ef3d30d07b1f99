"""Arrays on the wire, read and written by the safetensors package too."""

import json
import pickle
import struct

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from terascope.core.errors import BadRequest, InternalError
from terascope.internals.arrays import Array, DType
from terascope.internals.packing import Layout, Spec, decode, encode, pack, unpack

_NUMPY = {DType.F64: "f8", DType.F32: "f4", DType.F16: "f2", DType.I64: "i8", DType.I32: "i4", DType.U8: "u1"}
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda n: n != "__metadata__")
sides = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@st.composite
def some_array(draw: st.DrawFn) -> Array:
    dtype, shape = draw(st.sampled_from(list(DType))), draw(sides)
    size = int(np.prod(shape, dtype=int)) * dtype.size
    return Array(dtype, shape, draw(st.binary(min_size=size, max_size=size)))


arrays = st.dictionaries(names, some_array(), max_size=5)


def same(one: dict[str, Array], other: dict[str, Array]) -> bool:
    def told(all_of: dict[str, Array]) -> dict[str, object]:
        return {name: (array.dtype, array.shape, bytes(array.data)) for name, array in all_of.items()}

    return told(one) == told(other)


@given(arrays, st.dictionaries(names, st.text(), max_size=2))
def test_what_is_packed_is_unpacked(given: dict[str, Array], metadata: dict[str, str]) -> None:
    found, told = unpack(pack(given, metadata))
    assert same(found, given)
    assert told == metadata


@given(arrays)
def test_the_safetensors_package_reads_it(given: dict[str, Array]) -> None:
    found = dict(safetensors.deserialize(pack(given)))  # type: ignore[no-untyped-call]
    assert found.keys() == given.keys()
    for name, one in given.items():
        said = found[name]
        assert (said["dtype"], tuple(said["shape"]), bytes(said["data"])) == (one.dtype, one.shape, bytes(one.data))


@given(st.dictionaries(names, st.tuples(st.sampled_from(sorted(_NUMPY)), sides), max_size=4))
def test_what_the_safetensors_package_writes_is_read(wanted: dict[str, tuple[DType, tuple[int, ...]]]) -> None:
    written = {name: np.ones(shape, _NUMPY[dtype]) for name, (dtype, shape) in wanted.items()}
    found, _ = unpack(safetensors.numpy.save(written))
    assert {name: (one.dtype, one.shape) for name, one in found.items()} == wanted
    assert all(set(one.numbers()) <= {1} for one in found.values())


@given(arrays)
def test_the_length_is_known_before_the_arrays_are(given: dict[str, Array]) -> None:
    layout = Layout.of([Spec(name, one.dtype, one.shape, ("token",)) for name, one in given.items()])
    pieces = list(layout.stream(iter(given.values())))
    assert sum(map(len, pieces)) == layout.length
    assert len(layout.head) % 8 == 0
    assert same(unpack(b"".join(pieces))[0], given)


@given(arrays)
def test_json_carries_them_too(given: dict[str, Array]) -> None:
    for one in given.values():
        said = json.loads(json.dumps(encode(one)))
        assert same({"": decode(**said)}, {"": one})


def test_axes_are_told_in_the_metadata() -> None:
    layout = Layout.of([Spec("a", DType.F32, (1, 2), ("token", "channel"))], {"model": "m@1"})
    _, metadata = unpack(b"".join(layout.stream([Array(DType.F32, (1, 2), bytes(8))])))
    assert json.loads(metadata["axes"]) == {"a": ["token", "channel"]}
    assert metadata["model"] == "m@1"


def test_the_overhead_of_a_capture_is_small() -> None:
    """The residual stream of 30 layers and 256 prompts of 128 tokens: 2 % of it may be overhead."""
    specs = [
        Spec(f"{row}/blocks.{layer}.residual.post", DType.F32, (128, 576), ("token", "channel"))
        for row in range(256)
        for layer in range(30)
    ]
    layout = Layout.of(specs)
    assert layout.length < 1.002 * sum(spec.nbytes for spec in specs)


@pytest.mark.parametrize(
    "given",
    [
        [],
        [Array(DType.F32, (2,), bytes(8)), Array(DType.F32, (2,), bytes(8))],
        [Array(DType.F32, (1, 2), bytes(8))],
        [Array(DType.I32, (2,), bytes(8))],
        [Array(DType.F32, (2,), bytes(7))],
    ],
)
def test_other_arrays_than_announced_are_a_fault_of_ours(given: list[Array]) -> None:
    with pytest.raises(InternalError):
        list(Layout.of([Spec("a", DType.F32, (2,))]).stream(given))


def file(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(**other: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | other


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\1\2\3",
        pickle.dumps({"a": 1}),
        struct.pack("<Q", 2**63),
        file(b"{"),
        file(b"\xff\xfe"),
        file([]),
        file(b"[" * 100_000),
        file(b'{"a":' + b"9" * 5000 + b"}"),
        file({"a": 1}),
        file({"a": entry()}),
        file({"a": entry()}, bytes(8)),
        file({"a": entry(shape=[2])}, bytes(4)),
        file({"a": entry(shape=[-1])}, bytes(4)),
        file({"a": entry(shape=[1.0])}, bytes(4)),
        file({"a": entry(shape=[True])}, bytes(4)),
        file({"a": entry(dtype="F8_E4M3")}, bytes(4)),
        file({"a": entry(dtype=4)}, bytes(4)),
        file({"a": entry(data_offsets=[4, 0])}, bytes(4)),
        file({"a": entry(data_offsets=[-4, 0])}, bytes(4)),
        file({"a": entry(data_offsets=["0", 4])}, bytes(4)),
        file({"a": entry(), "b": entry()}, bytes(4)),
        file({"a": entry(data_offsets=[4, 8])}, bytes(8)),
        file({"__metadata__": {"a": 1}}),
        file(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{}}', bytes(4)),
    ],
    ids=repr,
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(BadRequest):
        unpack(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_file_or_refused(data: bytes) -> None:
    for one in (data, file(data)):
        try:
            found, _ = unpack(one)
        except BadRequest:
            continue
        assert sum(array.nbytes for array in found.values()) <= len(one)


@pytest.mark.parametrize(
    ("dtype", "shape", "data"), [("F32", [2], "AAAA"), ("F32", [1], "A"), ("F32", [1], "ä"), ("O", [1], "AAAA")]
)
def test_json_whose_parts_do_not_agree_is_refused(dtype: str, shape: list[int], data: str) -> None:
    with pytest.raises(BadRequest):
        decode(dtype, shape, data)

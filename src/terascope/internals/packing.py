"""Arrays on the wire: the layout of safetensors as a stream of known length, and base64 in JSON for few of them.

A safetensors file is eight bytes of length, a JSON header that says type, shape and place of each array, and the
arrays' bytes without gaps. Nothing in it can be run, and nothing is ever unpickled.
"""

import base64
import binascii
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from terascope.core.errors import BadRequest, InternalError
from terascope.internals.arrays import Array, DType

LENGTH = 8  # bytes that say how long the header is; the header is a multiple of it, so that arrays are aligned
LONGEST_HEADER = 100_000_000  # the format's own limit
_METADATA = "__metadata__"


@dataclass(frozen=True, slots=True)
class Spec:
    """An array to come: its name, type, shape, and what its axes are called."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    axes: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """How many bytes its elements have."""
        return math.prod(self.shape) * self.dtype.size


@dataclass(frozen=True, slots=True)
class Layout:
    """A safetensors file before its arrays are there: `head`, then the arrays in the order of `specs`."""

    specs: tuple[Spec, ...]
    head: bytes

    @classmethod
    def of(cls, specs: Sequence[Spec], metadata: Mapping[str, str] | None = None) -> "Layout":
        """Lay out `specs`; their axes go into the metadata as `axes`, a JSON object of lists by name."""
        axes = {spec.name: spec.axes for spec in specs if spec.axes}
        told = {**(metadata or {}), **({"axes": _json(axes).decode()} if axes else {})}
        header: dict[str, object] = {_METADATA: told} if told else {}
        start = 0
        for spec in specs:
            offsets = [start, start := start + spec.nbytes]
            header[spec.name] = {"dtype": spec.dtype, "shape": spec.shape, "data_offsets": offsets}
        text = _json(header)
        text += b" " * (-len(text) % LENGTH)
        return cls(tuple(specs), len(text).to_bytes(LENGTH, "little") + text)

    @property
    def length(self) -> int:
        """Bytes of the whole file."""
        return len(self.head) + sum(spec.nbytes for spec in self.specs)

    def stream(self, arrays: Iterable[Array]) -> Iterator[bytes | memoryview]:
        """The file in pieces, `length` bytes in all; `arrays` come in the order of `specs` and are not kept.

        Raises `InternalError` at an array that is not what its spec said, or when there are more or fewer of them.
        """
        yield self.head
        coming = iter(arrays)
        for spec in self.specs:
            one = next(coming, None)
            if one is None or (one.dtype, one.shape, len(one.data)) != (spec.dtype, spec.shape, spec.nbytes):
                raise InternalError("an array is not what was announced", detail=f"{spec}: {one}")
            yield one.data
        if next(coming, None) is not None:
            raise InternalError("there are more arrays than were announced")


def pack(arrays: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> bytes:
    """A whole safetensors file of `arrays`."""
    layout = Layout.of([Spec(name, one.dtype, one.shape) for name, one in arrays.items()], metadata)
    return b"".join(layout.stream(arrays.values()))


def unpack(data: bytes | memoryview) -> tuple[dict[str, Array], dict[str, str]]:
    """The arrays and the metadata of a safetensors file; the arrays share the bytes of `data`.

    Raises `BadRequest` for anything that is not exactly such a file, with a type that `DType` knows.
    """
    whole = memoryview(data)
    size = int.from_bytes(whole[:LENGTH], "little")
    if len(whole) < LENGTH or size > min(LONGEST_HEADER, len(whole) - LENGTH):
        raise BadRequest("this is not a safetensors file: it is shorter than its header says")
    specs, metadata = read_header(bytes(whole[LENGTH : LENGTH + size]))
    body = whole[LENGTH + size :]
    if sum(spec.nbytes for spec in specs) != len(body):
        raise BadRequest("the arrays of the safetensors file do not end where it ends")
    ends = accumulate(spec.nbytes for spec in specs)
    found = {
        spec.name: Array(spec.dtype, spec.shape, body[end - spec.nbytes : end])
        for spec, end in zip(specs, ends, strict=True)
    }
    return found, metadata


def read_header(text: bytes) -> tuple[tuple[Spec, ...], dict[str, str]]:
    """The arrays of a safetensors file, in the order of their bytes, and its metadata; `text` is its header.

    Raises `BadRequest` for a header that is none, for a type that `DType` does not know, and for arrays that do not
    follow each other without gaps. How large an array is that a header announces is for the caller to judge.
    """
    header = _header(text)
    metadata = _texts(header.pop(_METADATA, {}))
    entries = sorted((_entry(name, said) for name, said in header.items()), key=lambda entry: entry[1:])
    at = 0
    for _, start, end in entries:
        if start != at:  # two arrays that share bytes would be small here and large once read
            raise BadRequest("the arrays of a safetensors file must follow each other without gaps")
        at = end
    return tuple(spec for spec, _, _ in entries), metadata


def encode(one: Array) -> dict[str, object]:
    """`{"dtype": ..., "shape": ..., "data": base64}`."""
    return {"dtype": str(one.dtype), "shape": list(one.shape), "data": base64.b64encode(one.data).decode()}


def decode(dtype: str, shape: Sequence[int], data: str) -> Array:
    """What `encode` wrote. Raises `BadRequest` when the parts do not agree."""
    return _array(_dtype(dtype), shape, decode_base64(data))


def decode_base64(text: str) -> bytes:
    """The bytes of `text`. Raises `BadRequest`."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest("this is not base64") from None


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _header(text: bytes) -> dict[str, object]:
    try:
        found = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise BadRequest("this is not a safetensors file: its header is not JSON") from None
    if not isinstance(found, dict):
        raise BadRequest("this is not a safetensors file: its header is not an object")
    return found


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found


def _texts(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise BadRequest("the metadata of a safetensors file must be texts by name")
    return value


def _entry(name: str, said: object) -> tuple[Spec, int, int]:
    """What the header says of an array: its spec, and where its bytes begin and end."""
    match said:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(start), int(end)]} if 0 <= start <= end:
            kind = _dtype(dtype)
            return Spec(name, kind, _sides(kind, shape, end - start)), start, end
    raise BadRequest(f"the header of the safetensors file is wrong at {name[:80]!r}")


def _dtype(name: str) -> DType:
    if name not in set(DType):
        raise BadRequest(f"arrays of type {name[:20]!r} are not taken; use one of {', '.join(DType)}")
    return DType(name)


def _array(dtype: DType, shape: Sequence[object], data: bytes | memoryview) -> Array:
    return Array(dtype, _sides(dtype, shape, len(data)), data)


def _sides(dtype: DType, shape: Sequence[object], size: int) -> tuple[int, ...]:
    sides = tuple(side for side in shape if type(side) is int and side >= 0)
    if len(sides) < len(shape) or math.prod(sides) * dtype.size != size:
        raise BadRequest(f"an array has {size} bytes, but its shape {list(shape)} of {dtype} asks for others")
    return sides

"""The header of a GGUF file, read without numpy.

The format is laid down at github.com/ggml-org/ggml, docs/gguf.md: a magic word and version, key-value pairs, one
record for each tensor, then the aligned data.
"""

import hashlib
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from terascope.catalog.files import unreadable
from terascope.core.errors import BadRequest

Value = str | int | float | bool

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 8
_DEEPEST = 4
_LONGEST_KEPT = 1024 * 1024

# fmt: off
BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82),
    23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2),
    34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18),
}
# fmt: on
"""Elements and bytes of one block of each tensor type."""


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF file says of itself.

    `metadata` has the values that are not arrays. `parameters` counts elements. `tokenizer_sha256` is over the
    bytes of all `tokenizer.` entries but the chat template, in the order of their keys; empty without any.
    """

    metadata: Mapping[str, Value]
    parameters: int
    tokenizer_sha256: str

    def text(self, key: str) -> str:
        """Return a text value, empty when there is none."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str) -> int:
        """Return a whole number, 0 when there is none."""
        value = self.metadata.get(key)
        return value if isinstance(value, int) else 0


def read_gguf(path: Path) -> GgufHeader:
    """Read the header of `path` and check that all tensors it names are there.

    Raises `BadRequest` when the file is truncated, not GGUF, or of a version or byte order that is not read.
    """
    try:
        return _Reader(path).header()
    except OSError as error:
        raise unreadable(error) from error
    except (struct.error, UnicodeDecodeError, ValueError) as error:
        raise BadRequest(f"{path} is not a GGUF file that can be read: {error}", param="source") from error


class _Reader:
    """Reads forwards through the header; every length is checked against the file before it is believed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = path.stat().st_size
        self._spans: dict[str, tuple[int, int]] = {}
        self._metadata: dict[str, Value] = {}

    def header(self) -> GgufHeader:
        with self._path.open("rb", buffering=_LONGEST_KEPT) as self._file:
            tensors, pairs = self._counts()
            for _ in range(pairs):
                self._pair()
            parameters = self._tensors(tensors)
            return GgufHeader(self._metadata, parameters, self._tokenizer())

    def _counts(self) -> tuple[int, int]:
        if self._file.read(4) != b"GGUF":
            raise BadRequest(f"{self._path} is not a GGUF file, or an empty one", param="source")
        version = self._scalar("I")
        if version not in (2, 3):
            raise BadRequest(f"{self._path} is GGUF of version {version}; 2 and 3 (little-endian) are read")
        return int(self._scalar("Q")), int(self._scalar("Q"))

    def _pair(self) -> None:
        start = self._file.tell()
        key = self._string()
        kind = int(self._scalar("I"))
        if kind == _ARRAY:
            self._skip_array()
        elif kind == _STRING:
            value = self._bytes()
            if len(value) <= _LONGEST_KEPT:
                self._metadata[key] = value.decode(errors="replace")
        else:
            self._metadata[key] = self._scalar(_scalar_code(kind))
        self._spans[key] = (start, self._file.tell())

    def _skip_array(self, depth: int = 0) -> None:
        kind, count = int(self._scalar("I")), int(self._scalar("Q"))
        if kind == _STRING:
            for _ in range(count):
                self._skip(int(self._scalar("Q")))
        elif kind == _ARRAY and depth < _DEEPEST:
            for _ in range(count):
                self._skip_array(depth + 1)
        else:
            self._skip(count * struct.calcsize(_scalar_code(kind)))

    def _tensors(self, count: int) -> int:
        """Read the tensor records; return the number of elements, once the data is known to be all there."""
        elements, end = 0, 0
        for _ in range(count):
            self._string()
            dimensions = int(self._scalar("I"))
            if dimensions > _MOST_DIMENSIONS:
                raise ValueError(f"a tensor of {dimensions} dimensions")
            size = math.prod(int(self._scalar("Q")) for _ in range(dimensions))
            block, width = BLOCKS.get(int(self._scalar("I")), (1, 0))  # of an unknown type only the start is checked
            elements += size
            end = max(end, int(self._scalar("Q")) + size // block * width)
        align = int(self._metadata.get("general.alignment", 32)) or 32
        self._need(-self._file.tell() % align + end)
        return elements

    def _tokenizer(self) -> str:
        digest = hashlib.sha256()
        keys = [key for key in sorted(self._spans) if key.startswith("tokenizer.") and "chat_template" not in key]
        for key in keys:
            start, end = self._spans[key]
            self._file.seek(start)
            digest.update(self._file.read(end - start))
        return digest.hexdigest() if keys else ""

    def _scalar(self, code: str) -> int | float | bool:
        (value,) = struct.unpack(f"<{code}", self._take(struct.calcsize(code)))
        assert isinstance(value, int | float)  # noqa: S101 - all codes are of numbers
        return value

    def _string(self) -> str:
        return self._bytes().decode()

    def _bytes(self) -> bytes:
        return self._take(int(self._scalar("Q")))

    def _take(self, count: int) -> bytes:
        self._need(count)
        return self._file.read(count)

    def _skip(self, count: int) -> None:
        self._need(count)
        self._file.seek(count, 1)

    def _need(self, count: int) -> None:
        if self._file.tell() + count > self._size:
            raise BadRequest(
                f"{self._path} is truncated: it has {self._size} bytes and its header asks for at least "
                f"{self._file.tell() + count}; fetch it again",
                param="source",
            )


def _scalar_code(kind: int) -> str:
    if kind not in _SCALARS:
        raise ValueError(f"a value of unknown type {kind}")
    return _SCALARS[kind]

"""Reads a safetensors file while it comes, array by array."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace

from terascope.core.errors import BadRequest, EngineError, GatewayUnreachable
from terascope.internals.arrays import Array
from terascope.internals.packing import LENGTH, LONGEST_HEADER, Spec, read_header

NamedArray = tuple[Spec, Array]
"""An array, and its name, type, shape and axes."""


class TensorReader:
    """Reads a safetensors file from its bytes, cut anywhere, and keeps the bytes of one array at a time.

    `specs` and `metadata` are there once the header is: what arrays come, in the order of their bytes, each with its
    axes where the metadata names them; and the file's texts by name. Nothing is reserved for what is announced only.
    """

    def __init__(self, longest_header: int = LONGEST_HEADER) -> None:
        """Refuse headers of more than `longest_header` bytes."""
        self.specs: tuple[Spec, ...] | None = None
        self.metadata: Mapping[str, str] = {}
        self._longest = longest_header
        self._read = 0  # arrays that were given out
        self._header = 0  # bytes of the header, once they are known
        self._part = bytearray()

    @property
    def whole(self) -> bool:
        """Whether all arrays have been given out."""
        return self.specs is not None and self._read == len(self.specs)

    def feed(self, data: bytes | memoryview) -> Iterator[NamedArray]:
        """Take bytes as they came; yield the arrays that are whole with them, each with bytes of its own.

        To be exhausted before it is called again. Raises `EngineError` for what is no such file.
        """
        rest = memoryview(data)
        while not self.whole:
            need = self._need() - len(self._part)
            self._part += rest[:need]
            if len(rest) < need:
                return
            rest = rest[need:]
            part, self._part = self._part, bytearray()
            yield from self._take(part)
        if rest:
            raise EngineError("the file of tensors goes on after its end; what came is not to be trusted, ask again")

    def end(self) -> None:
        """To be called when nothing more comes: raises `GatewayUnreachable` when that is not the file's end."""
        if not self.whole:
            raise GatewayUnreachable("the file of tensors broke off before its end; what came is incomplete, ask again")

    def _need(self) -> int:
        """How many bytes the part has that comes."""
        if self.specs is not None:
            return self.specs[self._read].nbytes
        return self._header or LENGTH

    def _take(self, part: bytearray) -> Iterator[NamedArray]:
        if self.specs is not None:
            spec = self.specs[self._read]
            self._read += 1
            yield spec, Array(spec.dtype, spec.shape, memoryview(part))
        elif not self._header:
            self._header = int.from_bytes(part, "little")
            if not 0 < self._header <= self._longest:
                raise EngineError(f"the header of the file of tensors has {self._header} bytes, which is no header")
        else:
            self.specs, self.metadata = _header_of(bytes(part))


def _header_of(text: bytes) -> tuple[tuple[Spec, ...], Mapping[str, str]]:
    try:
        specs, metadata = read_header(text)
        axes = json.loads(metadata.get("axes", "{}"))
    except (BadRequest, ValueError, RecursionError) as error:
        raise EngineError("the engine sent a file of tensors that is wrong; ask again", detail=str(error)) from None
    return tuple(replace(spec, axes=_axes(spec, axes)) for spec in specs), metadata


def _axes(spec: Spec, axes: object) -> tuple[str, ...]:
    """The names of an array's axes; none where they are not told, or not one for each axis."""
    named = axes.get(spec.name) if isinstance(axes, dict) else None
    if isinstance(named, list) and len(named) == len(spec.shape) and all(isinstance(one, str) for one in named):
        return tuple(named)
    return ()

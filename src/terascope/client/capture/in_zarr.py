"""Rows as arrays of a Zarr group (version 3), with the names of their axes."""

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import ArrayLike

from terascope.client.capture.block import Block, Column
from terascope.client.capture.manifest import Manifest
from terascope.client.capture.numbers import KINDS, numbers

_CHUNK_BYTES = 4 << 20
_INDEX_ROWS = 1 << 16


class ZarrRows:
    """An array for each column, and `prompt`, `position` and `token`; rows are the first axis of all."""

    def __init__(self, directory: Path) -> None:
        self._group = zarr.open_group(str(directory), mode="a", zarr_format=3)

    def cut(self, manifest: Manifest) -> None:
        for name in self._names(manifest):
            if (one := self._group.get(name)) is not None:
                self._resize(one, manifest.rows)

    def append(self, block: Block, manifest: Manifest) -> None:
        start, stop = manifest.rows, manifest.rows + block.rows
        for name, values in {"prompt": block.prompt, "position": block.position, "token": block.token}.items():
            kind = "<i8" if name == "prompt" else "<i4"
            self._write(self._array(name, (), kind, ("row",), _INDEX_ROWS), np.asarray(values, kind), start, stop)
        for name, column in block.columns.items():
            one = self._array(name, column.shape, KINDS[column.dtype], ("row", *column.axes), _chunk_rows(column))
            self._write(one, numbers(block.data(name), column), start, stop)

    def _array(self, name: str, shape: tuple[int, ...], kind: str, axes: tuple[str, ...], chunk: int) -> Any:
        found = self._group.get(name)
        if found is None:
            named = axes if len(axes) == 1 + len(shape) else None
            found = self._group.create_array(
                name, shape=(0, *shape), chunks=(chunk, *(max(1, side) for side in shape)), dtype=kind,
                dimension_names=named, compressors=None,
            )  # fmt: skip
        return found

    def _write(self, one: Any, values: ArrayLike, start: int, stop: int) -> None:
        """A chunk is replaced as a whole, so the rows of earlier parts in it are never lost."""
        self._resize(one, stop)
        one[start:stop] = values

    def _resize(self, one: Any, rows: int) -> None:
        if one.shape[0] != rows:
            one.resize((rows, *one.shape[1:]))

    def _names(self, manifest: Manifest) -> tuple[str, ...]:
        return ("prompt", "position", "token", *manifest.columns)


def _chunk_rows(column: Column) -> int:
    row = max(1, column.elements) * np.dtype(KINDS[column.dtype]).itemsize
    return max(1, _CHUNK_BYTES // row)

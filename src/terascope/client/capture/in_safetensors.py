"""Rows as safetensors files, a part each, and `index.json` that says which rows are where."""

from pathlib import Path

import orjson

from terascope.client.capture.block import Block
from terascope.client.capture.manifest import Manifest, cut_parts, replace_file, whole_file
from terascope.internals.arrays import DType
from terascope.internals.packing import Layout, Spec

INDEX = "index.json"
_PART = "part-{:06d}.safetensors"


class SafetensorsRows:
    """Needs no library; elements keep the type that they came with."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._parts: list[dict[str, object]] = []

    def cut(self, manifest: Manifest) -> None:
        cut_parts(self._directory, "part-*.safetensors", manifest.parts)
        index = self._directory / INDEX
        if index.exists():
            self._parts = orjson.loads(index.read_bytes())["parts"][: manifest.parts]
            self._save()

    def append(self, block: Block, manifest: Manifest) -> None:
        name = _PART.format(manifest.parts)
        indices = {"prompt": (DType.I64, block.prompt), "position": (DType.I32, block.position),
                   "token": (DType.I32, block.token)}  # fmt: skip
        specs = [Spec(one, dtype, (block.rows,), ("row",)) for one, (dtype, _) in indices.items()]
        for column_name, one in block.columns.items():
            specs.append(Spec(column_name, one.dtype, (block.rows, *one.shape), ("row", *one.axes)))
        layout = Layout.of(specs, {"first_row": str(manifest.rows)})
        with whole_file(self._directory / name) as path, path.open("wb") as file:
            file.write(layout.head)
            for _, values in indices.values():
                file.write(values.tobytes())
            for column_name in block.columns:
                file.writelines(block.pieces(column_name))
        self._parts.append({"file": name, "first_row": manifest.rows, "rows": block.rows})
        self._save()

    def _save(self) -> None:
        replace_file(self._directory / INDEX, orjson.dumps({"parts": self._parts}, option=orjson.OPT_INDENT_2))

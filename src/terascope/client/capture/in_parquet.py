"""Rows as Parquet files, a part each: a directory that every reader of Parquet takes as one table."""

from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from terascope.client.capture.block import Block, Column
from terascope.client.capture.manifest import Manifest, cut_parts, whole_file
from terascope.client.capture.numbers import numbers

_PART = "part-{:06d}.parquet"


class ParquetRows:
    """A column of lists of fixed size for each array, and `prompt`, `id`, `position`, `token`, `labels` (JSON)."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def cut(self, manifest: Manifest) -> None:
        cut_parts(self._directory, "part-*.parquet", manifest.parts)

    def append(self, block: Block, manifest: Manifest) -> None:
        with whole_file(self._directory / _PART.format(manifest.parts)) as path:
            pq.write_table(_table(block), path, compression="none", use_dictionary=["id", "labels"])


def _table(block: Block) -> pa.Table:
    ids: list[str] = []
    labels: list[str] = []
    for done in block.prompts:
        ids += [done.prompt.id] * done.rows
        labels += [orjson.dumps(done.prompt.labels).decode()] * done.rows
    columns = {
        "prompt": pa.array(block.prompt, pa.int64()),
        "id": pa.array(ids, pa.string()),
        "position": pa.array(block.position, pa.int32()),
        "token": pa.array(block.token, pa.int32()),
        "labels": pa.array(labels, pa.string()),
    }
    fields = [pa.field(name, one.type) for name, one in columns.items()]
    for name, column in block.columns.items():
        columns[name] = _lists(block.data(name), column)
        about = {"shape": orjson.dumps(column.shape), "axes": orjson.dumps(column.axes)}
        fields.append(pa.field(name, columns[name].type, metadata=about))
    return pa.table(list(columns.values()), schema=pa.schema(fields))


def _lists(data: bytes, column: Column) -> pa.Array:
    """A list for each row, or a number where a row has one alone."""
    flat = pa.array(numbers(data, column).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, column.elements) if column.shape else flat

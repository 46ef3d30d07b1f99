"""A dataset that grows part by part: the rows in one of three formats, and beside them a line for each prompt."""

from pathlib import Path
from typing import Protocol

import orjson

from terascope.client.capture.block import Block, Done, check_column
from terascope.client.capture.manifest import Manifest, beside
from terascope.core.errors import BadRequest, ConfigError

PROMPTS = "prompts.jsonl"
KINDS = (".zarr", ".parquet", ".safetensors")


class Rows(Protocol):
    """Keeps the rows in one format."""

    def cut(self, manifest: Manifest) -> None:
        """Remove what was written after `manifest`."""
        ...

    def append(self, block: Block, manifest: Manifest) -> None:
        """Write `block` as the part after those of `manifest`; it may be there in part until that is saved."""
        ...


def rows_of(kind: str, directory: Path) -> Rows:
    """What keeps rows in a format. Raises `ConfigError` when its library is not installed, `BadRequest`."""
    try:
        if kind == ".zarr":
            from terascope.client.capture.in_zarr import ZarrRows

            return ZarrRows(directory)
        if kind == ".parquet":
            from terascope.client.capture.in_parquet import ParquetRows

            return ParquetRows(directory)
    except ImportError as error:
        raise ConfigError(f"{kind} needs {error.name}; install terascope[capture], or write .safetensors") from None
    if kind == ".safetensors":
        from terascope.client.capture.in_safetensors import SafetensorsRows

        return SafetensorsRows(directory)
    raise BadRequest(f"the output must end with {', '.join(KINDS)}", param="output")


class Dataset:
    """A dataset on the disk, and how far it is."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        """Cuts off what does not count. The directory is this process's alone."""
        self.manifest = manifest
        self._directory = directory
        self._rows = rows_of(manifest.kind, directory)
        self._rows.cut(manifest)
        self._list = beside(directory) / PROMPTS
        with self._list.open("ab") as file:
            file.truncate(manifest.listed)

    def append(self, block: Block, read: int, line: int, sha256: str) -> None:
        """Write `block`; the prompts file was read to byte `read`, line `line`, with that sha256. It counts on return.

        Killed in the middle, nothing of it counts. Raises `BadRequest` when rows do not fit to those that are there.
        """
        manifest = self.manifest
        for name, column in block.columns.items():
            known = manifest.columns.setdefault(name, column)
            check_column(name, known, column, next(done.prompt for done in block.prompts if done.rows))
        if block.rows:
            self._rows.append(block, manifest)
            manifest.parts += 1
        manifest.listed += self._told(block)
        manifest.prompts += len(block.prompts)
        manifest.failed += block.failed
        manifest.rows += block.rows
        manifest.bytes += block.nbytes
        manifest.read, manifest.line, manifest.sha256 = read, line, sha256
        manifest.save(self._directory)

    def end(self) -> None:
        """All prompts are in it."""
        self.manifest.whole = True
        self.manifest.save(self._directory)

    def _told(self, block: Block) -> int:
        """Write a line for each prompt; return how many bytes that was."""
        row = self.manifest.rows
        lines = []
        for done in block.prompts:
            lines.append(_line(done, row))
            row += done.rows
        data = b"".join(lines)
        with self._list.open("ab") as file:
            file.write(data)
        return len(data)


def _line(done: Done, first: int) -> bytes:
    told = {"prompt": done.prompt.number, "id": done.prompt.id, "first_row": first, "rows": done.rows}
    more = {"error": done.error} if done.error else {}
    return orjson.dumps(told | more | {"labels": done.prompt.labels}, option=orjson.OPT_APPEND_NEWLINE)

"""A shelf that is a directory of this machine, or one that machines share."""

import os
from collections.abc import Iterator
from pathlib import Path

from terascope.core.errors import ConfigError
from terascope.files.contract import Seen

PART = ".part"
"""What the names of half-written blobs end with."""


class DirectorySink:
    """Writes beside and renames."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._beside = path.with_name(path.name + PART)
        self._file = os.open(self._beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._open = True

    def write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(self._file, left) :]

    def commit(self) -> None:
        os.fsync(self._file)
        self._close()
        self._beside.rename(self._path)
        _sync(self._path.parent)

    def discard(self) -> None:
        self._close()
        self._beside.unlink(missing_ok=True)
        self._path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._open:
            self._open = False
            os.close(self._file)


class DirectoryShelf:
    """One file for each blob, readable by its owner alone."""

    def __init__(self, directory: Path) -> None:
        """Makes the directory. Raises `ConfigError` when that cannot be."""
        self._directory = directory
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"files.url: cannot make the directory {directory}: {error.strerror}") from None

    def create(self, name: str) -> DirectorySink:
        return DirectorySink(self._directory / name)

    def read(self, name: str, start: int, stop: int) -> bytes:
        with (self._directory / name).open("rb", buffering=0) as file:
            file.seek(start)
            return file.read(stop - start)

    def size(self, name: str) -> int | None:
        try:
            return (self._directory / name).stat().st_size
        except FileNotFoundError:
            return None

    def delete(self, name: str, *, partial: bool = False) -> None:
        (self._directory / (name + PART if partial else name)).unlink(missing_ok=True)

    def scan(self) -> Iterator[Seen]:
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    name = entry.name.removesuffix(PART)
                    yield Seen(name, entry.stat(follow_symlinks=False).st_mtime, partial=name != entry.name)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

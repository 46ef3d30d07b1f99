"""A shelf on any file system that fsspec knows: object stores, SSH, WebDAV and so on."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import fsspec

from terascope.core.errors import ConfigError
from terascope.files.contract import Seen
from terascope.files.directory import PART


class FsspecSink:
    """Writes under another name and moves: not every file system hides what is half-written."""

    def __init__(self, system: Any, path: str) -> None:
        self._system, self._path = system, path
        self._file = system.open(path + PART, "wb")
        self._moved = False

    def write(self, data: bytes) -> None:
        self._file.write(data)

    def commit(self) -> None:
        self._file.close()
        self._system.mv(self._path + PART, self._path)
        self._moved = True

    def discard(self) -> None:
        try:
            self._file.close()
        finally:
            _remove(self._system, self._path if self._moved else self._path + PART)


class FsspecShelf:
    """One object for each blob, below the URL."""

    def __init__(self, url: str, options: Mapping[str, str]) -> None:
        """Connects to nothing yet where the file system lets it.

        Raises `ConfigError` for a URL that fsspec does not know, or whose package is not installed.
        """
        try:
            self._system, root = fsspec.url_to_fs(url, **options)
        except (ImportError, ValueError, TypeError) as error:
            raise ConfigError(f"files.url: {error}") from None
        self._root = str(root).rstrip("/")

    def create(self, name: str) -> FsspecSink:
        self._system.makedirs(self._root, exist_ok=True)
        return FsspecSink(self._system, self._path(name))

    def read(self, name: str, start: int, stop: int) -> bytes:
        return bytes(self._system.cat_file(self._path(name), start=start, end=stop))

    def size(self, name: str) -> int | None:
        try:
            return int(self._system.info(self._path(name))["size"])
        except FileNotFoundError:
            return None

    def delete(self, name: str, *, partial: bool = False) -> None:
        _remove(self._system, self._path(name + PART if partial else name))

    def scan(self) -> Iterator[Seen]:
        self._system.invalidate_cache()
        try:
            found = self._system.ls(self._root, detail=True)
        except FileNotFoundError:
            return
        for one in found:
            if one["type"] == "file":
                full = str(one["name"]).rpartition("/")[2]
                name = full.removesuffix(PART)
                yield Seen(name, _modified(one), partial=name != full)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def _remove(system: Any, path: str) -> None:
    try:
        system.rm_file(path)
    except FileNotFoundError:
        return


def _modified(info: Mapping[str, Any]) -> float:
    """When it changed, by whatever name the file system has for that; infinite where it does not say: not old then."""
    for name in ("mtime", "LastModified", "last_modified", "modified", "updated", "created"):
        when = info.get(name)
        if isinstance(when, datetime):
            return when.timestamp()
        if isinstance(when, int | float):
            return float(when)
    return float("inf")

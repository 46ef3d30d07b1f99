"""Bytes by their sha256, each in a file of the data directory."""

import hashlib
import os
import tempfile
from pathlib import Path

from terascope.core.errors import NotFound


class Blobs:
    """A directory of files that are named by what is in them. Blocks; call it in a thread."""

    def __init__(self, directory: Path) -> None:
        """`directory` is made when the first file comes."""
        self._directory = directory

    def put(self, data: bytes) -> str:
        """Keep `data`, durably on return, and return its sha256 in hex. Putting the same again changes nothing."""
        digest = hashlib.sha256(data).hexdigest()
        path = self._path(digest)
        if path.exists():
            return digest
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).rename(path)
        return digest

    def get(self, digest: str) -> bytes:
        """Return what `digest` names. Raises `NotFound` when it is not there or is damaged."""
        try:
            data = self._path(digest).read_bytes()
        except FileNotFoundError:
            raise NotFound("the bytes of this are gone from the gateway's data directory; add it again") from None
        if hashlib.sha256(data).hexdigest() != digest:
            raise NotFound("the bytes of this were changed in the gateway's data directory; remove it and add it again")
        return data

    def remove(self, digest: str) -> None:
        """Forget what `digest` names, if it is there."""
        self._path(digest).unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        return self._directory / digest[:2] / digest

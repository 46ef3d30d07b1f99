"""What a training tells: lines of JSON at the end of a file, which the gateway reads as they come."""

import errno
import json
import os
from pathlib import Path
from types import TracebackType


class Progress:
    """Appends to a file. A line that a killed trainer left unfinished is cut off first."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        _cut_unfinished(self._file)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._file)

    def tell(self, kind: str, **told: object) -> None:
        """Append a line, at once. Raises `OSError` when the disk is full; then nothing of it is left."""
        line = json.dumps({"kind": kind, **told}).encode() + b"\n"
        if os.write(self._file, line) < len(line):
            _cut_unfinished(self._file)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _cut_unfinished(file: int) -> None:
    size = os.fstat(file).st_size
    while size and os.pread(file, 1, size - 1) != b"\n":
        size -= 1
    os.ftruncate(file, size)

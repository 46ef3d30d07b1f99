"""A memory of sha256 sums, so that large files are read once and not at every start."""

import contextlib
import json
import os
import tempfile
import threading
from pathlib import Path

from terascope.core.clock import Clock

_SETTLED_S = 2.0
_MOST = 100_000


class HashCache:
    """sha256 by real path, as long as size, times and inode stay what they were. Safe to use from many threads.

    A file that changed in the last two seconds is not remembered: its next change might leave the same times,
    which is how Git's index treats its "racy" entries. Losing the cache file costs time and nothing else.
    """

    def __init__(self, file: Path, clock: Clock) -> None:
        self._file = file
        self._clock = clock
        self._lock = threading.Lock()
        self._known = _read(file)
        self._new: dict[str, list[int | str]] = {}

    def get(self, path: Path, stat: os.stat_result) -> str | None:
        """Return the sum of the file that `stat` describes."""
        with self._lock:
            entry = self._known.get(os.path.realpath(path))
        return str(entry[-1]) if entry and entry[:-1] == _fingerprint(stat) else None

    def put(self, path: Path, stat: os.stat_result, sha256: str) -> None:
        """Remember the sum of the file that `stat`, taken before it was read, describes."""
        if self._clock.now() - max(stat.st_mtime, stat.st_ctime) < _SETTLED_S:
            return
        with self._lock:
            self._new[os.path.realpath(path)] = [*_fingerprint(stat), sha256]

    def save(self) -> None:
        """Add what is new to the cache file, in one rename. A file that cannot be written is let be."""
        with self._lock:
            if not self._new:
                return
            together = {**_read(self._file), **self._new}  # another process may have added to it
            self._known, self._new = dict(list(together.items())[-_MOST:]), {}
            with contextlib.suppress(OSError):
                _write(self._file, json.dumps(self._known))


def _fingerprint(stat: os.stat_result) -> list[int | str]:
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _read(file: Path) -> dict[str, list[int | str]]:
    try:
        known = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) and all(isinstance(entry, list) for entry in known.values()) else {}


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=file.name)
    try:
        with os.fdopen(descriptor, "w") as temporary:
            temporary.write(text)
        Path(name).replace(file)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise

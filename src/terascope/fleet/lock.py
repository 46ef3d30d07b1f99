"""One gateway to a data directory, and to a SQLite file: a second would stop the replicas of the first."""

import fcntl
import os
from pathlib import Path

from terascope.core.errors import ConfigError


class DirectoryLock:
    """An exclusive hold on a directory; the kernel lets go of it when the process ends, however it ends.

    With `file` it is a hold on that file of the directory alone, such as a database, by a lock file beside it.
    """

    def __init__(self, directory: Path, file: str = "") -> None:
        self._directory = directory
        self._lock = f"{file or 'gateway'}.lock"
        self._held = directory / file
        self._instead = "another `database.url`" if file else "another --data-dir"
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take it. Raises `ConfigError` when another process has it or the directory cannot be written to."""
        fd = self._open()
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise ConfigError(f"another gateway uses {self._held}; stop it, or choose {self._instead}") from None
        self._fd = fd

    def _open(self) -> int:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            return os.open(self._directory / self._lock, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(f"cannot write to {self._directory}: {error.strerror}") from None

    def release(self) -> None:
        """Let go of it; idempotent."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

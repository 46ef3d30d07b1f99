"""One gateway to a data directory: a second would stop the replicas of the first."""

import fcntl
import os
from pathlib import Path

from terascope.core.errors import ConfigError


class DirectoryLock:
    """An exclusive hold on a directory; the kernel lets go of it when the process ends, however it ends."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take it. Raises `ConfigError` when another process has it or the directory cannot be written to."""
        fd = self._open()
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise ConfigError(
                f"another gateway uses {self._directory}; stop it, or choose another --data-dir"
            ) from None
        self._fd = fd

    def _open(self) -> int:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            return os.open(self._directory / "gateway.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(f"cannot write to {self._directory}: {error.strerror}") from None

    def release(self) -> None:
        """Let go of it; idempotent."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

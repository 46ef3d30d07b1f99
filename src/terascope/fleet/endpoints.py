"""Where replicas are reached: a Unix socket that only our user can open, and a secret besides."""

import secrets
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

from terascope.core.errors import ConfigError
from terascope.engines.contract import Endpoint

_UNIX = "unix:"
_NAME = 16  # characters of a socket's name
_PREFIX = "terascope-"


class Endpoints:
    """Hands out endpoints in one directory of mode 0700."""

    def __init__(self, data_dir: Path) -> None:
        self._wanted = data_dir / "run"
        self._directory = self._wanted

    def open(self) -> None:
        """Find a directory in which sockets can be made, and remove what an earlier life left there.

        It is `run` in the data directory; where that is too long for the 107 bytes of a socket's path, or on a
        file system without sockets, a new one in the directory for temporary files. Raises `ConfigError` when
        that cannot be used either.
        """
        self._wanted.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._wanted.chmod(0o700)
        for old in self._wanted.glob("*.sock"):
            old.unlink(missing_ok=True)
        self._directory = self._wanted
        if not _takes_sockets(self._directory):
            self._directory = Path(tempfile.mkdtemp(prefix=_PREFIX))
            if not _takes_sockets(self._directory):
                self._directory.rmdir()
                raise ConfigError(f"no socket can be made in {self._wanted}; choose a shorter data directory")

    def new(self, replica_id: str) -> Endpoint:
        """Return the endpoint of a new replica, with a secret of its own."""
        path = self._directory / f"{replica_id[-(_NAME - 5) :]}.sock"
        return Endpoint(f"{_UNIX}{path}", new_secret())

    def remove(self, url: str) -> None:
        """Remove what is left of the endpoint at `url`, of this life or an earlier one; idempotent."""
        if not url.startswith(_UNIX):
            return
        path = Path(url.removeprefix(_UNIX))
        path.unlink(missing_ok=True)
        if path.parent != self._directory and path.parent.name.startswith(_PREFIX):
            _remove_if_empty(path.parent)

    def close(self) -> None:
        """Remove the directory if it was made for this life only."""
        if self._directory != self._wanted:
            _remove_if_empty(self._directory)


def new_secret() -> str:
    """Return a secret for one replica."""
    return secrets.token_urlsafe(32)


def _takes_sockets(directory: Path) -> bool:
    path = directory / ("x" * _NAME)
    with socket.socket(socket.AF_UNIX) as trial:
        try:
            trial.bind(str(path))
        except OSError:
            return False
    path.unlink()
    return True


def _remove_if_empty(directory: Path) -> None:
    with suppress(OSError):
        directory.rmdir()

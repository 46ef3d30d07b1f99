"""Files and directories that only their owner may read."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from terascope.core.errors import ConfigError, Conflict


@contextmanager
def private_file(path: Path) -> Iterator[TextIO]:
    """A new file of mode 0600 to write to; when the body raises, it is gone again.

    Raises `Conflict` when the path is taken (a link counts) or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise Conflict(f"{path} is there already; remove it or name another file") from None
    except OSError as error:
        raise Conflict(f"cannot write {path}: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            yield file
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def make_private(directory: Path) -> None:
    """Make a data directory, for its owner alone, unless it is there. Raises `ConfigError`."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the data directory {directory}: {error.strerror}") from None

"""Files that only their owner may read."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from terascope.core.errors import Conflict


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

"""What safetensors files say of the tensors in them; no tensor is read."""

import json
from pathlib import Path
from typing import Any

from terascope.internals.packing import LENGTH, LONGEST_HEADER


def header_of(path: Path) -> tuple[dict[str, Any], int]:
    """Return a file's header, and where in the file the tensors begin.

    Raises `OSError` for what cannot be read, and `ValueError` or `OverflowError` for what is no header.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(LENGTH), "little")
        header: dict[str, Any] = json.loads(file.read(min(size, LONGEST_HEADER)))
    return header, LENGTH + size

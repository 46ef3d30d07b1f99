"""Files that are there as a whole or not at all: what is being written has another name."""

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

PART = ".part"
"""The end of the name of what is half-written."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Put a safetensors file at `path`, durably on return. Raises `OSError`; then nothing is left of it."""
    there = {name: one.detach().cpu().contiguous() for name, one in tensors.items()}
    write_bytes(path, save(there, dict(metadata) if metadata else None))


def write_text(path: Path, text: str) -> None:
    """Put a text at `path`, durably on return. Raises `OSError`; then nothing is left of it."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Put `data` at `path`, durably on return. Raises `OSError`; then nothing is left of it."""
    draft = path.with_name(path.name + PART)
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        sync_directory(path.parent)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

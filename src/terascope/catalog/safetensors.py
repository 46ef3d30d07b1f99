"""The header of a safetensors file, read without the library: eight bytes of length, JSON, the tensors' bytes."""

import json
import math
from pathlib import Path

from terascope.catalog.files import unreadable
from terascope.core.errors import BadRequest

_LONGEST_HEADER = 100_000_000  # the format's own limit


_EXPERT = ".experts."  # in the name of each tensor of a routed expert; those that every token uses are called otherwise


def count_parameters(path: Path) -> tuple[int, int]:
    """Return how many elements the tensors of `path` have, and how many of them those of routed experts.

    They are counted as stored: packed quantised weights count as packed.

    Raises `BadRequest` when the file is truncated or is not safetensors.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 + length:
                raise _truncated(path, size, 8 + length)
            if length > _LONGEST_HEADER:
                raise _not_safetensors(path)
            header = json.loads(file.read(length))
    except OSError as error:
        raise unreadable(error) from error
    except (ValueError, RecursionError) as error:
        raise _not_safetensors(path) from error
    try:
        tensors = [tensor for name, tensor in header.items() if name != "__metadata__"]
        end = 8 + length + max((int(tensor["data_offsets"][1]) for tensor in tensors), default=0)
        sizes = {
            name: math.prod(int(side) for side in tensor["shape"])
            for name, tensor in header.items()
            if name != "__metadata__"
        }
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise _not_safetensors(path) from error
    if size < end:
        raise _truncated(path, size, end)
    return sum(sizes.values()), sum(size for name, size in sizes.items() if _EXPERT in name)


def _not_safetensors(path: Path) -> BadRequest:
    return BadRequest(f"{path} is not a safetensors file: its header cannot be read", param="source")


def _truncated(path: Path, size: int, needed: int) -> BadRequest:
    return BadRequest(
        f"{path} is truncated or not safetensors: it has {size} bytes and its header asks for {needed}; fetch it again",
        param="source",
    )

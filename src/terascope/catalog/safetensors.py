"""The header of a safetensors file, read without the library: eight bytes of length, JSON, the tensors' bytes."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from terascope.catalog.files import unreadable
from terascope.core.errors import BadRequest

_LONGEST_HEADER = 100_000_000  # the format's own limit
_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2}


_EXPERT = ".experts."  # in the name of each tensor of a routed expert; those that every token uses are called otherwise


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file: its number type as the format calls it, its shape, where its bytes start and end."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def elements(self) -> int:
        """How many numbers it has, as stored."""
        return math.prod(self.shape)


def count_parameters(path: Path) -> tuple[int, int]:
    """Return how many elements the tensors of `path` have, and how many of them those of routed experts.

    They are counted as stored: packed quantised weights count as packed.

    Raises `BadRequest` when the file is truncated or is not safetensors.
    """
    sizes = {name: tensor.elements for name, tensor in read_header(path).items()}
    return sum(sizes.values()), sum(size for name, size in sizes.items() if _EXPERT in name)


def read_header(path: Path) -> dict[str, Tensor]:
    """Return the tensors of `path` by name; their bytes are all there. Raises `BadRequest` as `count_parameters`."""
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
        tensors = {name: _tensor(said, 8 + length) for name, said in header.items() if name != "__metadata__"}
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise _not_safetensors(path) from error
    end = max((tensor.end for tensor in tensors.values()), default=8 + length)
    if size < end:
        raise _truncated(path, size, end)
    return tensors


def _tensor(said: dict[str, list[int]], first: int) -> Tensor:
    start, end = (int(offset) for offset in said["data_offsets"])
    found = Tensor(str(said["dtype"]), tuple(int(side) for side in said["shape"]), first + start, first + end)
    width = _BYTES.get(found.dtype)
    if width is not None and (start < 0 or end - start != width * found.elements):
        raise ValueError(said)
    return found


def _not_safetensors(path: Path) -> BadRequest:
    return BadRequest(f"{path} is not a safetensors file: its header cannot be read", param="source")


def _truncated(path: Path, size: int, needed: int) -> BadRequest:
    return BadRequest(
        f"{path} is truncated or not safetensors: it has {size} bytes and its header asks for {needed}; fetch it again",
        param="source",
    )

"""A model's embedding table, read row by row from its checkpoint: what its tokens are as vectors.

Only of models that take the rows as they are: others scale them, or add something to them.
"""

import json
import mmap
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from terascope.core.errors import BadRequest
from terascope.engines.vllm.weights import header_of
from terascope.internals.arrays import Array, DType

_PLAIN = frozenset({
    "deepseek_v2", "deepseek_v3", "llama", "mistral", "mixtral", "olmo2", "phi3", "qwen2", "qwen2_moe", "qwen3",
    "qwen3_moe",
})  # fmt: skip
"""Kinds of models (`model_type`) whose first layer gets the rows of the table as they are."""
_NAME = "embed_tokens.weight"
_FLOATS = (DType.F32, DType.F16, DType.BF16)


@dataclass(frozen=True, slots=True)
class Table:
    """`size` rows of `width` numbers of one type. Its file is mapped: only what is asked for is read."""

    dtype: DType
    size: int
    width: int
    rows_in: memoryview = field(repr=False)

    def rows(self, tokens: Sequence[object]) -> Array:
        """Return the vectors [tokens, width] of `tokens`. Raises `BadRequest` for what is no token of the model."""
        each = self.width * self.dtype.size
        found = bytearray()
        for token in tokens:
            if type(token) is not int or not 0 <= token < self.size:
                raise BadRequest(f"tokens are numbers from 0 to {self.size - 1}")
            found += self.rows_in[token * each : (token + 1) * each]
        return Array(self.dtype, (len(tokens), self.width), bytes(found))


@lru_cache(maxsize=64)
def table_of(directory: str) -> Table | None:
    """Return the table of the checkpoint in `directory`; None where it is not plain, or cannot be read."""
    try:
        config = json.loads(Path(directory, "config.json").read_bytes())
        if config.get("model_type") not in _PLAIN:
            return None
        found = [(path, one) for path in Path(directory).glob("*.safetensors") for one in _tables_in(path)]
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return None
    return _mapped(*found[0]) if len(found) == 1 else None


def _tables_in(path: Path) -> list[dict[str, Any]]:
    """What a safetensors file says of the embedding tables in it, with where their bytes begin in the file."""
    header, first = header_of(path)
    named = [said for name, said in header.items() if name.endswith(_NAME)]
    return [{**said, "begin": first + said["data_offsets"][0]} for said in named]


def _mapped(path: Path, said: dict[str, Any]) -> Table | None:
    dtype = next((one for one in _FLOATS if one == said["dtype"]), None)
    if dtype is None or len(said["shape"]) != 2:
        return None
    size, width = said["shape"]
    with path.open("rb") as file:
        whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    end = said["begin"] + size * width * dtype.size
    return Table(dtype, size, width, whole[said["begin"] : end]) if end <= len(whole) else None

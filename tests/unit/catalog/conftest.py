"""What the catalogue's tests share: work that runs in the test's own thread, and small GGUF files."""

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from terascope.catalog.threads import Work

WriteGguf = Callable[..., Path]


@pytest.fixture
async def work() -> Work:
    """Work that nobody listens to."""
    return Work()


@pytest.fixture
def write_gguf() -> WriteGguf:
    """Writes a small GGUF file with the format's own library; keyword arguments go into its metadata."""

    def write(path: Path, architecture: str = "llama", **metadata: str | int | bool) -> Path:
        writer = gguf.GGUFWriter(path, architecture)
        writer.add_context_length(128)
        writer.add_token_list(["<s>", "a", "b"])
        writer.add_token_types([3, 1, 1])
        for key, value in metadata.items():
            add = {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32}[type(value)]
            add(key.replace("__", "."), value)
        writer.add_tensor("token_embd.weight", np.zeros((8, 32), np.float32))
        writer.add_tensor("output.weight", np.zeros((4, 64), np.float16))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write

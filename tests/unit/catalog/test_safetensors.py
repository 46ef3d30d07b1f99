"""Our reader of safetensors headers against the format's own library."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from terascope.catalog.safetensors import count_parameters
from terascope.core.errors import BadRequest
from terascope.testing.checkpoints import safetensors


def test_counts_what_the_library_wrote(tmp_path: Path) -> None:
    save_file({"a": np.zeros((3, 5), np.float16), "b": np.zeros((), np.int8)}, tmp_path / "x.safetensors")
    assert count_parameters(tmp_path / "x.safetensors") == (16, 0)


def test_a_file_without_tensors_has_no_parameters(tmp_path: Path) -> None:
    save_file({}, tmp_path / "x.safetensors")
    assert count_parameters(tmp_path / "x.safetensors") == (0, 0)


def test_every_truncation_is_seen(tmp_path: Path) -> None:
    whole = safetensors({"a": (4, 4)})
    for length in range(len(whole)):
        (path := tmp_path / "x.safetensors").write_bytes(whole[:length])
        with pytest.raises(BadRequest, match="truncated"):
            count_parameters(path)


@pytest.mark.parametrize(
    "header",
    [
        b"no json",
        b"[1]",
        b'{"a": 1}',
        b'{"a": {"shape": [2]}}',
        b'{"a": {"shape": "x", "data_offsets": [0, 0]}}',
        b'{"a": {"shape": [2], "data_offsets": []}}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_header_is_a_clear_error(tmp_path: Path, header: bytes) -> None:
    (path := tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(BadRequest, match="not a safetensors file"):
        count_parameters(path)


def test_a_header_beyond_the_formats_limit_is_not_read(tmp_path: Path) -> None:
    length = 200_000_000
    with (path := tmp_path / "x.safetensors").open("wb") as file:
        file.write(length.to_bytes(8, "little"))
        file.truncate(length + 8)  # sparse: takes no room
    with pytest.raises(BadRequest, match="not a safetensors file"):
        count_parameters(path)

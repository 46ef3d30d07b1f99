"""Our reader of GGUF headers against the format's own library."""

import contextlib
import random
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
from gguf.constants import GGML_QUANT_SIZES

from terascope.catalog.gguf import BLOCKS, read_gguf
from terascope.core.errors import BadRequest


def test_reads_what_the_library_reads(tmp_path: Path, write_gguf: Callable[..., Path]) -> None:
    path = write_gguf(tmp_path / "x.gguf", general__license="mit", tokenizer__chat_template="{{ x }}", flag=True)
    header = read_gguf(path)
    library = gguf.GGUFReader(path)
    assert header.parameters == sum(int(tensor.n_elements) for tensor in library.tensors) == 512
    assert header.text("general.architecture") == "llama"
    assert header.number("llama.context_length") == 128
    assert header.text("tokenizer.chat_template") == "{{ x }}"
    assert header.metadata["flag"] is True
    assert header.text("no.such.key") == ""
    assert header.number("general.license") == 0


def test_knows_the_block_sizes_of_the_library() -> None:
    assert {int(kind): size for kind, size in GGML_QUANT_SIZES.items()}.items() <= BLOCKS.items()


def test_the_tokenizer_has_a_hash_of_its_own(tmp_path: Path, write_gguf: Callable[..., Path]) -> None:
    plain = read_gguf(write_gguf(tmp_path / "1.gguf")).tokenizer_sha256
    other_template = read_gguf(write_gguf(tmp_path / "2.gguf", tokenizer__chat_template="{{ x }}")).tokenizer_sha256
    other_tokens = read_gguf(write_gguf(tmp_path / "3.gguf", tokenizer__ggml__bos_token_id=1)).tokenizer_sha256
    assert plain == other_template != other_tokens
    assert len(plain) == 64


def test_every_truncation_is_seen(tmp_path: Path, write_gguf: Callable[..., Path]) -> None:
    whole = write_gguf(tmp_path / "whole.gguf").read_bytes()
    end = len(whole.rstrip(b"\0")) + 1  # what follows is the last tensor's zeros and padding
    for length in [*range(0, end, 7), len(whole) - 600]:
        (cut := tmp_path / "cut.gguf").write_bytes(whole[:length])
        with pytest.raises(BadRequest, match=r"truncated|GGUF"):
            read_gguf(cut)


def test_a_damaged_header_raises_nothing_else(tmp_path: Path, write_gguf: Callable[..., Path]) -> None:
    whole = write_gguf(tmp_path / "whole.gguf").read_bytes()
    dice = random.Random(7)
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(4):
            damaged[dice.randrange(500)] = dice.randrange(256)
        (path := tmp_path / "damaged.gguf").write_bytes(damaged)
        with contextlib.suppress(BadRequest):
            read_gguf(path)


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"GGML" + bytes(60), "not a GGUF file"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(60), "version 1"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(60), "little-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<I", 99), "type 99"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q", 0) + struct.pack("<I", 2**31), "dimensions"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, start: bytes, said: str) -> None:
    (path := tmp_path / "x.gguf").write_bytes(start)
    with pytest.raises(BadRequest, match=said):
        read_gguf(path)


def test_a_missing_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="cannot be read"):
        read_gguf(tmp_path / "none.gguf")

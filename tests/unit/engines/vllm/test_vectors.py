"""Vectors from the public forms to what `torch.save` writes, read by torch itself."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from hypothesis.extra import numpy as arrays
from safetensors.torch import save

from terascope.core.errors import BadRequest
from terascope.engines.vllm.vectors import Form, with_vectors

FORM = Form(3, 3e38)
_SHAPES = some.tuples(some.integers(1, 5), some.just(3))
_HALVES = arrays.arrays(np.float16, _SHAPES, elements={"allow_nan": False, "allow_infinity": False})


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def npy(rows: np.ndarray) -> str:
    file = io.BytesIO()
    np.save(file, rows)
    return base64_of(file.getvalue())


def loaded(text: str) -> torch.Tensor:
    found: torch.Tensor = torch.load(io.BytesIO(base64.b64decode(text)), weights_only=True)
    return found


def converted(embeds: Any, form: Form = FORM) -> list[str]:
    found: list[str] = with_vectors("completions", {"prompt": "", "prompt_embeds": embeds}, form)["prompt_embeds"]
    return found


@given(_HALVES, some.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]))
def test_torch_reads_what_was_sent(rows: np.ndarray, dtype: torch.dtype) -> None:
    tensor = torch.from_numpy(rows.copy()).to(dtype)
    [text] = converted(base64_of(save({"a": tensor})))
    assert loaded(text).dtype == dtype
    assert torch.equal(loaded(text), tensor)
    if dtype is not torch.bfloat16:
        assert torch.equal(loaded(converted(npy(tensor.numpy()))[0]), tensor)


@given(some.lists(_HALVES, min_size=1, max_size=3))
def test_parts_stand_one_below_the_other(several: list[np.ndarray]) -> None:
    parts = [{"type": "prompt_embeds", "prompt_embeds": npy(one)} for one in several]
    assert np.array_equal(loaded(converted(parts)[0]).numpy(), np.concatenate(several))
    assert len(converted([npy(one) for one in several])) == len(several)
    [message] = with_vectors("chat/completions", {"messages": [{"role": "user", "content": parts}]}, FORM)["messages"]
    [part] = message["content"]
    assert np.array_equal(loaded(part["data"]).numpy(), np.concatenate(several))


@pytest.mark.parametrize(
    ("embeds", "words"),
    [
        (npy(np.zeros((2, 4), np.float32)), r"takes \[n, 3\]"),
        (npy(np.zeros((0, 3), np.float32)), "no vector"),
        (npy(np.zeros(3, np.float32)), r"takes \[n, 3\]"),
        (npy(np.full((1, 3), np.inf)), "infinite"),
        (npy(np.full((1, 3), 1e300)), "too large"),
        (npy(np.zeros((1, 3), np.int32)), "little-endian"),
        (npy(np.zeros((1, 3), ">f4")), "little-endian"),
        (npy(np.asfortranarray(np.zeros((2, 3)))), "C order"),
        (base64_of(b"\x80\x02."), "pickle"),
        (base64_of(b"PK\x03\x04"), "pickle"),
        (base64_of(save({"a": torch.zeros(1, 3), "b": torch.zeros(1, 3)})), "one array"),
        (base64_of(save({"a": torch.zeros(1, 3, dtype=torch.int32)})), "I32"),
        (base64_of(base64.b64decode(npy(np.zeros((2, 3))))[:-8]), "asks for others"),
        ("#", "base64"),
        ([{"type": "text", "text": "a"}], "vectors alone"),
        ([{"type": "prompt_embeds"}], "vectors alone"),
    ],
)
def test_what_is_refused(embeds: Any, words: str) -> None:
    with pytest.raises(BadRequest, match=words) as refused:
        converted(embeds)
    assert refused.value.param == "prompt_embeds"


def test_a_text_beside_them_is_refused() -> None:
    fields = {"prompt": "a", "prompt_embeds": npy(np.zeros((1, 3)))}
    with pytest.raises(BadRequest, match="not both"):
        with_vectors("completions", fields, FORM)


@given(some.binary(max_size=200))
def test_any_bytes_after_the_magic_are_refused(rest: bytes) -> None:
    with pytest.raises(BadRequest):
        converted(base64_of(b"\x93NUMPY" + rest))


def test_what_the_model_s_files_say(tmp_path: Path) -> None:
    assert Form.of(str(tmp_path), "float16") == Form(0, 65504.0)
    (tmp_path / "config.json").write_text('{"text_config": {"hidden_size": 8}, "dtype": "float16"}')
    assert Form.of(str(tmp_path), "") == Form(8, 65504.0)
    assert Form.of(str(tmp_path), "float32").largest > 1e38
    with pytest.raises(BadRequest, match="too large"):
        converted(npy(np.full((1, 3), 70000.0)), Form(3, 65504.0))

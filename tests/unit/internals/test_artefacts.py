"""What soft prompts and projectors may be."""

from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from terascope.core.artefacts import ArtefactName
from terascope.core.errors import BadRequest
from terascope.internals.artefacts import projector_widths, soft_prompt_shape


def zeros(*shape: int) -> Any:
    return np.zeros(shape, dtype=np.float32)


@given(st.lists(st.integers(1, 9), min_size=2, max_size=9), st.data())
def test_widths_of_a_projector(widths: list[int], data: st.DataObject) -> None:
    arrays = {f"{n}.weight": zeros(widths[n + 1], widths[n]) for n in range(len(widths) - 1)}
    for n in range(len(widths) - 1):
        if data.draw(st.booleans()):
            arrays[f"{n}.bias"] = zeros(widths[n + 1])
    assert projector_widths(safetensors.numpy.save(arrays)) == tuple(widths)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({}, "1 to 8 layers"),
        ({"0.bias": zeros(2)}, "1 to 8 layers"),
        ({"1.weight": zeros(2, 2)}, "numbered from 0"),
        ({"0.weight": zeros(2, 2), "2.weight": zeros(2, 2)}, "numbered from 0"),
        ({"0.weight": zeros(2, 2), "code": zeros(1)}, "'code'"),
        ({"0.weight": zeros(4)}, "out, in"),
        ({"0.weight": zeros(0, 4)}, "out, in"),
        ({"0.weight": zeros(3, 2), "1.weight": zeros(2, 2)}, "as many numbers"),
        ({"0.weight": zeros(3, 2), "0.bias": zeros(2)}, "0.bias"),
        ({"0.weight": np.zeros((2, 2), dtype=np.int64)}, "floats"),
        ({"0.weight": np.full((2, 2), np.nan, dtype=np.float32)}, "finite"),
        ({f"{n}.weight": zeros(2, 2) for n in range(9)}, "1 to 8 layers"),
    ],
)
def test_what_is_no_projector(arrays: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequest, match=words) as caught:
        projector_widths(safetensors.numpy.save(arrays))
    assert caught.value.param == "data"


def test_a_soft_prompt_is_one_matrix() -> None:
    assert soft_prompt_shape(safetensors.numpy.save({"a": zeros(3, 4)})) == (3, 4)
    for arrays in ({}, {"a": zeros(3)}, {"a": zeros(0, 4)}, {"a": zeros(1, 2), "b": zeros(1, 2)}):
        with pytest.raises(BadRequest):
            soft_prompt_shape(safetensors.numpy.save(arrays))
    with pytest.raises(BadRequest, match="safetensors"):
        soft_prompt_shape(b"\x80\x04K\x01.")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a", ArtefactName("a")),
        ("a@1.0", ArtefactName("a", "1.0")),
        ("lab/a@1", ArtefactName("a", "1", "lab")),
    ],
)
def test_names(text: str, name: ArtefactName) -> None:
    assert ArtefactName.parse(text, "model") == name
    assert str(name) == text


@pytest.mark.parametrize("text", ["", "/a", "a@", "@1", "a b", "Lab/a", "a/b/c", "a@1@2", "a+b", "../a", "lab/"])
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(BadRequest, match="no name"):
        ArtefactName.parse(text, "model")

"""Which files are taken, and what conversion keeps."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize, quantize
from hypothesis import given
from hypothesis import strategies as st

from terascope.core.errors import ConfigError
from terascope.engines.openvino.checkpoint import Checkpoint, find
from terascope.engines.openvino.convert import convert, main

Matrix = np.ndarray[tuple[int, ...], np.dtype[Any]]


def _write(file: Path, kind: gguf.GGMLQuantizationType, matrix: Matrix) -> None:
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(77)
    writer.add_token_list(["a", "b"])
    writer.add_tensor("output.weight", quantize(matrix, kind), raw_dtype=kind)
    writer.add_tensor("output_norm.weight", matrix[0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _matrix(seed: int) -> Matrix:
    return np.random.default_rng(seed).standard_normal((3, 64), np.float32)


def _tensors(file: Path) -> dict[str, tuple[str, Matrix]]:
    reader = gguf.GGUFReader(file)
    return {one.name: (one.tensor_type.name, dequantize(one.data, one.tensor_type)) for one in reader.tensors}


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0"])
def test_weights_that_are_read_rightly(kind: str, tmp_path: Path) -> None:
    _write(tmp_path / "m.gguf", gguf.GGMLQuantizationType[kind], _matrix(0))
    assert find(tmp_path) == Checkpoint(tmp_path / "m.gguf", 77)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_1"])
def test_others_are_refused_with_the_way_out(kind: str, tmp_path: Path) -> None:
    _write(tmp_path / "m.gguf", gguf.GGMLQuantizationType[kind], _matrix(0))
    with pytest.raises(ConfigError, match=rf"weights in {kind}, .*openvino\.convert m\.gguf NEW\.gguf"):
        find(tmp_path)


def test_a_model_in_openvinos_own_form(tmp_path: Path) -> None:
    (tmp_path / "openvino_model.xml").write_text("<net/>")
    (tmp_path / "openvino_tokenizer.xml").write_text("<net/>")
    with pytest.raises(ConfigError, match=r"not openvino_detokenizer\.xml; make it"):
        find(tmp_path)
    (tmp_path / "openvino_detokenizer.xml").write_text("<net/>")
    assert find(tmp_path) == Checkpoint(tmp_path, 0)
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 8192}')
    assert find(tmp_path) == Checkpoint(tmp_path, 8192)


@pytest.mark.parametrize("names", [(), ("a.gguf", "b.gguf"), ("model.safetensors",)])
def test_no_file_or_several(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=r"GGUF files and no openvino_model\.xml"):
        find(tmp_path)


@given(seed=st.integers(0, 2**31), kind=st.sampled_from(["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F32"]))
def test_conversion_keeps_what_the_file_means(seed: int, kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Matrices to within half a unit of F16's last place, vectors exactly, and all that is said of the model."""
    directory = tmp_path_factory.mktemp("convert")
    before, after = directory / "before.gguf", directory / "after.gguf"
    _write(before, gguf.GGMLQuantizationType[kind], _matrix(seed))
    convert(before, after)
    old, new = _tensors(before), _tensors(after)
    assert (new["output.weight"][0], new["output_norm.weight"][0]) == ("F16", "F32")
    np.testing.assert_allclose(new["output.weight"][1], old["output.weight"][1], rtol=2**-11, atol=2**-24)
    np.testing.assert_array_equal(new["output_norm.weight"][1], old["output_norm.weight"][1])
    field = gguf.GGUFReader(after).get_field("tokenizer.ggml.tokens")
    assert field is not None
    assert field.contents() == ["a", "b"]


def test_its_command_line(tmp_path: Path) -> None:
    _write(tmp_path / "m.gguf", gguf.GGMLQuantizationType.Q4_1, _matrix(1))
    into = tmp_path / "new"
    into.mkdir()
    main([str(tmp_path / "m.gguf"), str(into / "m.gguf"), "--kind", "Q8_0"])
    assert find(into) == Checkpoint(into / "m.gguf", 77)
    assert _tensors(into / "m.gguf")["output.weight"][0] == "Q8_0"

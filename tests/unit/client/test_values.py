"""Arrays of results become numpy's, torch's and xarray's, and theirs become arrays of plans."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from terascope.client import TraceArray
from terascope.client.values import foreign, stacked
from terascope.core.errors import BadRequest
from terascope.internals.arrays import Array, DType

KINDS = st.sampled_from(["f8", "f4", "f2", "i8", "i4", "u1", ">f4"]).map(np.dtype)
TORCH = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8]


def array(*numbers: float, shape: tuple[int, ...] | None = None, **more: Any) -> TraceArray:
    return TraceArray.of("x", np.array(numbers, "f4").reshape(shape or (len(numbers),)), **more)


@given(npst.arrays(KINDS, npst.array_shapes(min_dims=0, max_dims=3, min_side=0)))
def test_numpy_there_and_back(given: Any) -> None:
    one = TraceArray.of("x", given)
    assert one.shape == given.shape
    assert np.array_equal(one.numpy(), given, equal_nan=True)
    assert np.array_equal(np.asarray(one), given, equal_nan=True)


@pytest.mark.parametrize("dtype", TORCH)
@pytest.mark.parametrize("shape", [(), (0, 2), (3,), (2, 3)])
def test_torch_there_and_back(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    given = (torch.ones(shape) * 3).to(dtype)
    back = TraceArray.of("x", given).torch()
    assert back.dtype is dtype
    assert torch.equal(back, given)
    back += 1  # its memory is its own to write


def test_a_tensor_that_is_transposed_and_has_a_gradient() -> None:
    given = torch.arange(6.0).reshape(2, 3).requires_grad_().T
    assert TraceArray.of("x", given).torch().tolist() == given.tolist()


def test_what_torch_gets_from_bytes_that_may_not_be_written() -> None:
    one = TraceArray("x", Array(DType.F32, (1,), bytes(4)))
    assert one.torch().tolist() == [0.0]


@given(st.lists(st.floats(width=16), min_size=1, max_size=9))
def test_bfloat16_is_widened_exactly(numbers: list[float]) -> None:
    given = torch.tensor(numbers).to(torch.bfloat16)
    assert np.array_equal(TraceArray.of("x", given).numpy("float32"), given.float().numpy(), equal_nan=True)


def test_numpy_has_no_bfloat16() -> None:
    one = TraceArray.of("x", torch.ones(2, dtype=torch.bfloat16))
    with pytest.raises(BadRequest, match=r'numpy\("float32"\)'):
        one.numpy()
    assert np.asarray(one, "float64").tolist() == [1.0, 1.0]


def test_xarray_names_axes_and_labels() -> None:
    labels: dict[str, list[Any]] = {"layer": [3, 7], "token": ["The", " the"]}
    found = array(1, 2, 3, 4, shape=(2, 2), axes=("layer", "token"), labels=labels).xarray()
    assert found.dims == ("layer", "token")
    assert found.sel(layer=7).values.tolist() == [3, 4]
    assert found.token_text.values.tolist() == ["The", " the"]
    assert foreign(found) is not None
    xr.testing.assert_equal(TraceArray.of("y", found, ("layer", "token"), labels).xarray(), found)


def test_xarray_without_names_of_axes() -> None:
    assert array(1, 2).xarray().dims == ("axis_0",)


def test_an_item() -> None:
    assert array(2.5, shape=(1, 1)).item() == 2.5
    with pytest.raises(BadRequest, match="has 2 elements"):
        array(1, 2).item()


def test_a_repr_says_type_and_shape() -> None:
    one = array(1, 2, shape=(1, 2), axes=("token", "channel"))
    assert repr(one) == "TraceArray('x', F32 [token 1, channel 2])"
    assert "F32 [token 1, channel 2]" in one._repr_html_()
    assert array(1, 2).described == "F32 [2]"


def test_layers_are_stacked() -> None:
    one = stacked("x", {4: array(1, 2, axes=("token",)), 9: array(3, 4, axes=("token",))})
    assert (one.axes, one.labels["layer"]) == (("layer", "token"), [4, 9])
    assert one.numpy().tolist() == [[1, 2], [3, 4]]
    with pytest.raises(BadRequest, match="differ"):
        stacked("x", {4: array(1, 2), 9: array(3)})


@pytest.mark.parametrize("value", [[1.0], "x", None, {"a": 1}])
def test_what_is_no_array(value: object) -> None:
    assert foreign(value) is None


@pytest.mark.parametrize("value", [np.array([1j]), np.array([True]), np.array(["a"]), torch.tensor([True])])
def test_types_that_plans_do_not_have(value: object) -> None:
    with pytest.raises(BadRequest, match="make it float32"):
        foreign(value)


def test_axes_must_be_as_many_as_there_are() -> None:
    with pytest.raises(BadRequest, match="2 axes"):
        array(1, axes=("a", "b"))


@pytest.mark.parametrize(
    ("package", "call"), [("numpy", "numpy()"), ("torch", "torch()"), ("xarray", "xarray()"), ("numpy", "xarray()")]
)
def test_what_is_not_installed_is_named_with_its_extra(package: str, call: str) -> None:
    program = f"""
import sys
sys.modules[{package!r}] = None
from terascope.client import TraceArray
from terascope.core.errors import ConfigError
from terascope.internals.arrays import Array, DType
try:
    TraceArray("x", Array(DType.F32, (1,), bytes(4))).{call}
except ConfigError as error:
    assert "pip install 'terascope[" in str(error), error
else:
    raise SystemExit(1)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_importing_the_sdk_imports_none_of_them() -> None:
    program = "import sys, terascope.client, terascope.client.plots as p; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert not {"numpy", "torch", "xarray", "matplotlib"} & set(done.stdout.split())

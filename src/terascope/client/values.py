"""Arrays of results as numpy, torch and xarray have them; each of these is imported when it is asked for."""

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from terascope.client.html import table
from terascope.core.errors import BadRequest, ConfigError
from terascope.internals.arrays import Array, DType

if TYPE_CHECKING:
    import numpy as np
    import torch
    import xarray as xr

_NUMPY = {DType.F64: "<f8", DType.F32: "<f4", DType.F16: "<f2", DType.I64: "<i8", DType.I32: "<i4", DType.U8: "|u1"}
_TORCH = {
    DType.F64: "float64", DType.F32: "float32", DType.F16: "float16", DType.BF16: "bfloat16",
    DType.I64: "int64", DType.I32: "int32", DType.U8: "uint8",
}  # fmt: skip
_EXTRAS = {"numpy": "arrays", "xarray": "arrays", "torch": "torch", "matplotlib": "plot"}


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class TraceArray:
    """An array of a result: its name, its elements, and what its axes are called, as many as it has.

    `labels` are names of what stands along an axis, by axis: texts of tokens, numbers of layers.
    Anything that takes numpy arrays takes it as it is, unless its elements are bfloat16.
    """

    name: str
    array: Array
    axes: tuple[str, ...] = ()
    labels: Mapping[str, Sequence[str | int]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        name: str,
        numbers: object,
        axes: Sequence[str] = (),
        labels: Mapping[str, Sequence[Any]] | None = None,
    ) -> "TraceArray":
        """Return an array of numpy, torch or xarray as one, to be drawn or put into a plan.

        Raises `BadRequest` for what is no array, and for `axes` that are not as many as it has.
        """
        one = foreign(numbers)
        if one is None or len(axes) not in (0, len(one.shape)):
            raise BadRequest(f"{name} must be an array with {len(axes) or 'any'} axes")
        return cls(name, one, tuple(axes), labels or {})

    @property
    def shape(self) -> tuple[int, ...]:
        """How many elements stand along each axis."""
        return self.array.shape

    @property
    def dtype(self) -> str:
        """The type of its elements, by the name that safetensors has for it: `F32`, `BF16`, `I32`."""
        return str(self.array.dtype)

    def numpy(self, dtype: str | None = None) -> "np.ndarray[Any, np.dtype[Any]]":
        """Return it as numpy's, of its own type or of `dtype`; shape: `shape`. Shares its bytes where it can.

        Raises `BadRequest` for bfloat16 without `dtype`: numpy has none, and "float32" holds all its values exactly.
        Raises `ConfigError` without numpy.
        """
        np = needed("numpy")
        if self.array.dtype is DType.BF16:
            if dtype is None:
                raise BadRequest(f'{self.name} is bfloat16, which numpy has not; ask for .numpy("float32") or .torch()')
            bits = np.frombuffer(self.array.data, "<u2").astype("<u4") << 16
            found = bits.view("<f4")
        else:
            found = np.frombuffer(self.array.data, _NUMPY[self.array.dtype])
        found = found.reshape(self.shape)
        return found if dtype is None else found.astype(dtype, copy=False)  # type: ignore[no-any-return] # numpy's own

    def torch(self) -> "torch.Tensor":
        """Return it as torch's, of its own type, on the CPU; shape: `shape`. Raises `ConfigError` without torch."""
        torch = needed("torch")
        dtype = getattr(torch, _TORCH[self.array.dtype])
        if not self.array.elements:
            return torch.empty(self.shape, dtype=dtype)  # type: ignore[no-any-return] # torch is imported by its name
        return torch.frombuffer(self._writable(), dtype=dtype).reshape(self.shape)  # type: ignore[no-any-return] # as above

    def xarray(self, dtype: str | None = None) -> "xr.DataArray":
        """Return it as xarray's, its dimensions named as `axes`; `dtype` as for `numpy`.

        Numbers of layers are coordinates of `layer`. Texts of tokens, which may be equal, stand along `token` as
        `token_text`. Raises `ConfigError` without xarray.
        """
        xarray = needed("xarray")
        dims = self.axes or tuple(f"axis_{number}" for number in range(len(self.shape)))
        coordinates = {
            axis if all(isinstance(one, int) for one in named) else f"{axis}_text": (axis, list(named))
            for axis, named in self.labels.items()
        }
        return xarray.DataArray(self.numpy(dtype), dims=dims, coords=coordinates, name=self.name)  # type: ignore[no-any-return] # xarray is imported by its name

    def item(self) -> float:
        """Return its only element. Raises `BadRequest` when it has another number of them."""
        if self.array.elements != 1:
            raise BadRequest(f"{self.name} has {self.array.elements} elements, not one; its shape is {self.shape}")
        return self.array.numbers()[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> "np.ndarray[Any, np.dtype[Any]]":
        found = self.numpy(None if dtype is None else needed("numpy").dtype(dtype).name)
        return found.copy() if copy else found

    def __repr__(self) -> str:
        return f"TraceArray({self.name!r}, {self.described})"

    def _repr_html_(self) -> str:
        return table(("name", "array"), [(self.name, self.described)])

    @property
    def described(self) -> str:
        """Its type and shape in words, such as `F32 [token 6, channel 576]`."""
        sides = (
            [f"{axis} {side}" for axis, side in zip(self.axes, self.shape, strict=True)] if self.axes else self.shape
        )
        return f"{self.dtype} [{', '.join(map(str, sides))}]"

    def _writable(self) -> memoryview:
        """Its bytes; a copy where they may not be written, which torch would warn of."""
        data = memoryview(self.array.data)
        return memoryview(bytearray(data)) if data.readonly else data


def stacked(name: str, arrays: Mapping[int, TraceArray]) -> TraceArray:
    """Arrays of layers, by layer, as one with a first axis `layer`. Raises `BadRequest` unless they are alike."""
    first, *_ = arrays.values()
    if any((one.array.dtype, one.shape) != (first.array.dtype, first.shape) for one in arrays.values()):
        raise BadRequest(f"the arrays {name} differ in shape or type, so that they cannot be stacked")
    data = memoryview(bytearray(b"".join(one.array.data for one in arrays.values())))
    array = Array(first.array.dtype, (len(arrays), *first.shape), data)
    axes = ("layer", *first.axes) if first.axes or not first.shape else ()
    return TraceArray(name, array, axes, {"layer": list(arrays), **first.labels} if axes else {})


def foreign(value: object) -> Array | None:
    """The array that `value` is: a result's, torch's, or one that numpy can read. None for anything else.

    Raises `BadRequest` for a type that plans do not have.
    """
    if isinstance(value, TraceArray):
        return value.array
    if (torch := sys.modules.get("torch")) is not None and isinstance(value, torch.Tensor):
        return _of_torch(value, torch)
    if hasattr(value, "__array__"):
        return _of_numpy(needed("numpy").asarray(value))
    return None


def needed(package: str) -> Any:
    """Return an optional package. Raises `ConfigError` that says how to install it."""
    try:
        return importlib.import_module(package)
    except ImportError:
        extra = _EXTRAS[package]
        raise ConfigError(f"this needs {package}; run `pip install 'terascope[{extra}]'`") from None


def _of_torch(value: Any, torch: Any) -> Array:
    whole = value.detach().cpu().contiguous()
    for dtype, name in _TORCH.items():
        if value.dtype is getattr(torch, name):
            return Array(dtype, tuple(value.shape), whole.reshape(-1).view(torch.uint8).numpy().tobytes())
    raise _unknown(str(value.dtype))


def _of_numpy(value: Any) -> Array:
    little = value.dtype.newbyteorder("<").str
    for dtype, name in _NUMPY.items():
        if little == name:
            return Array(dtype, tuple(value.shape), value.astype(name, copy=False).tobytes())
    raise _unknown(str(value.dtype))


def _unknown(name: str) -> BadRequest:
    return BadRequest(f"plans have no arrays of type {name}; make it float32, or whole numbers for indices")

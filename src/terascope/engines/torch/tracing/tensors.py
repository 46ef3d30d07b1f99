"""Between arrays of the plan language and tensors."""

import torch
from torch import Tensor

from terascope.internals.arrays import Array, DType

_TYPES = {
    DType.F64: torch.float64,
    DType.F32: torch.float32,
    DType.F16: torch.float16,
    DType.BF16: torch.bfloat16,
    DType.I64: torch.int64,
    DType.I32: torch.int32,
    DType.U8: torch.uint8,
}
_NAMES = {kind: name for name, kind in _TYPES.items()}


def dtype_of(kind: torch.dtype) -> DType:
    """Return what the plan language calls a tensor's type."""
    return _NAMES[kind]


def torch_dtype(kind: DType) -> torch.dtype:
    """Return the tensors' type of that name."""
    return _TYPES[kind]


def tensor_of(array: Array, device: torch.device) -> Tensor:
    """Return a tensor with the array's elements, floats in float32 at least; the bytes are copied."""
    found = torch.frombuffer(bytearray(array.data), dtype=_TYPES[array.dtype]) if array.nbytes else torch.zeros(0)
    return wide(found.view(array.shape).to(device))


def array_of(tensor: Tensor, kind: DType) -> Array:
    """Return a tensor as an array of type `kind`; its bytes are on the CPU, and shared where nothing had to change."""
    found = tensor.detach().to("cpu", _TYPES[kind]).contiguous()
    data = found.flatten().view(torch.uint8).numpy().data if found.numel() else b""
    return Array(kind, tuple(found.shape), data)


def wide(x: Tensor) -> Tensor:
    """Return `x` in float32 at least; whole numbers stay what they are."""
    return x if x.dtype in (torch.float32, torch.float64) or not x.is_floating_point() else x.float()

"""Vectors as they were sent: base64 of a safetensors or .npy file, checked before anything is made of them.

Nothing is ever unpickled: of a .npy file only the header is read by numpy, and its elements are taken as numbers.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from terascope.core.errors import BadRequest, ContextLengthExceeded
from terascope.engines.torch.tracing.tensors import torch_dtype
from terascope.internals.packing import decode_base64, unpack
from terascope.protocol.embeds import NPY_MAGIC

_HEADERS = 1 << 16  # bytes that the headers of a file may take besides its vectors
_WIDEST = 8  # bytes of an element
_ELEMENTS = ("f2", "f4", "f8")
_HEADER_READERS: dict[tuple[int, int], Callable[[io.BytesIO], tuple[tuple[int, ...], bool, np.dtype]]] = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}
_PICKLES = {b"\x80": "a pickle", b"PK": "an archive, such as torch.save and numpy.savez write"}


@dataclass(frozen=True, slots=True)
class VectorForm:
    """What vectors in place of tokens must be: as wide as the model's embeddings, and numbers in its `dtype`."""

    width: int
    dtype: torch.dtype


def read_vectors(text: str, form: VectorForm, most: int, param: str) -> Tensor:
    """Return the vectors [n, width] in `text`, in the model's number type, on the CPU; n is 1 to `most`.

    Raises `BadRequest` with `param` for anything else: another width or type, no vector, a number that is not finite
    (also only in the model's type), a pickle; and `ContextLengthExceeded` for more than `most`.
    """
    try:
        _check_size(len(text) * 3 // 4, form, most)
        found = _checked(_array(decode_base64(text)), form, most)
    except BadRequest as error:
        raise type(error)(f"{param}: {error.message}", param=param) from None
    return found


def _check_size(size: int, form: VectorForm, most: int) -> None:
    if size > most * form.width * _WIDEST + _HEADERS:
        raise ContextLengthExceeded(
            f"{size} bytes are more than the model's context of {most} tokens has as vectors of {form.width} numbers"
        )


def _array(data: bytes) -> Tensor:
    kind = next((words for start, words in _PICKLES.items() if data.startswith(start)), "")
    if kind:
        raise BadRequest(f"this is {kind}, which is not taken; send a safetensors or a .npy file")
    return _npy(data) if data.startswith(NPY_MAGIC) else _safetensors(data)


def _safetensors(data: bytes) -> Tensor:
    arrays, _ = unpack(data)
    if len(arrays) != 1:
        raise BadRequest(f"the safetensors file must hold one array, not {len(arrays)}")
    (array,) = arrays.values()
    if not array.dtype.is_float:
        raise BadRequest(f"the vectors are {array.dtype}; send F32, F16, BF16 or F64")
    found = torch.frombuffer(bytearray(array.data), dtype=torch_dtype(array.dtype)) if array.nbytes else torch.zeros(0)
    return found.view(array.shape)


def _npy(data: bytes) -> Tensor:
    file = io.BytesIO(data)
    try:
        shape, fortran, dtype = _HEADER_READERS[npy.read_magic(file)](file)
    except (ValueError, KeyError, TypeError, MemoryError, RecursionError):
        raise BadRequest("this is not a .npy file that numpy.save writes of an array of floats") from None
    if dtype.hasobject or dtype.str[1:] not in _ELEMENTS:
        raise BadRequest(f"the vectors are {str(dtype)[:40]}; save them as float32, float16 or float64")
    body = data[file.tell() :]
    sides = [side for side in shape if side >= 0]
    if len(sides) < len(shape) or _product(sides) * dtype.itemsize != len(body):
        raise BadRequest(
            f"the .npy file has {len(body)} bytes of elements, but its shape {list(shape)} asks for others"
        )
    array = np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C")
    return torch.from_numpy(array.astype(dtype.newbyteorder("="), order="C"))


def _product(sides: list[int]) -> int:
    found = 1
    for side in sides:  # not numpy's, which wraps around
        found *= side
    return found


def _checked(vectors: Tensor, form: VectorForm, most: int) -> Tensor:
    if vectors.dim() != 2 or vectors.shape[1] != form.width:
        raise BadRequest(
            f"the vectors have the shape {list(vectors.shape)}; this model takes [n, {form.width}], a row for each"
        )
    if not len(vectors):
        raise BadRequest("there is no vector")
    if len(vectors) > most:
        raise ContextLengthExceeded(f"{len(vectors)} vectors are more than the model's context of {most} tokens")
    if not vectors.isfinite().all():
        raise BadRequest("a number is infinite or not a number (NaN)")
    return _typed(vectors, form)


def in_form(vectors: Tensor, form: VectorForm, param: str) -> Tensor:
    """Return `vectors` [n, width], which were computed, in the model's number type. Raises `BadRequest`."""
    try:
        return _typed(vectors, form)
    except BadRequest as error:
        raise BadRequest(f"{param}: {error.message}", param=param) from None


def _typed(vectors: Tensor, form: VectorForm) -> Tensor:
    found = vectors.to(form.dtype)
    if not found.isfinite().all():
        raise BadRequest(
            f"a number is too large for {str(form.dtype).removeprefix('torch.')}, in which the model computes"
        )
    return found


def width_of(text: str, param: str) -> int:
    """Return how many numbers each of the vectors in `text` has. Raises `BadRequest` with `param`."""
    try:
        found = _array(decode_base64(text))
    except BadRequest as error:
        raise BadRequest(f"{param}: {error.message}", param=param) from None
    if found.dim() != 2 or not found.numel():
        raise BadRequest(f"{param}: the vectors have the shape {list(found.shape)}, not [n, width]", param=param)
    return int(found.shape[1])

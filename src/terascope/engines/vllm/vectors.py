"""Vectors in a request as vLLM wants them: from safetensors or .npy to what `torch.save` writes, without torch.

Nothing that was sent is unpickled, and no pickle that was sent is passed on: the one in the file is written here.
"""

import ast
import base64
import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from terascope.core.errors import BadRequest, ContextLengthExceeded, UnsupportedFeature
from terascope.engines.vllm.mixing import TOKENS
from terascope.engines.vllm.table import Table, table_of
from terascope.internals.arrays import Array, DType
from terascope.internals.packing import decode_base64, unpack
from terascope.protocol.embeds import NPY_MAGIC, PART

_STORAGES = {DType.F64: b"Double", DType.F32: b"Float", DType.F16: b"Half", DType.BF16: b"BFloat16"}
_NPY = {"f8": DType.F64, "f4": DType.F32, "f2": DType.F16}
_NPY_SIZES = {b"\x01\x00": 2, b"\x02\x00": 4}  # version -> bytes that say how long the header is
_LONGEST_NPY_HEADER = 8192
_HALF = ("float16", "half")
_LARGEST = {True: 65504.0, False: 3.3895313892515355e38}  # of float16; of bfloat16, which float32 holds as well


@dataclass(frozen=True, slots=True)
class Form:
    """What vectors must be: `width` numbers each (0: not known here), none larger than `largest`.

    A prompt with tokens among them has at most `longest` in all (0: not known here), whose rows are in `table`.
    """

    width: int
    largest: float
    longest: int = 0
    table: Table | None = None

    @classmethod
    def of(cls, directory: str, dtype: str, context_length: int = 0) -> "Form":
        """Read the model's files in `directory`; `dtype` and length are the deployment's, "" and 0 for the model's own.

        A file that cannot be read leaves the check of the width to vLLM.
        """
        try:
            config = json.loads((Path(directory) / "config.json").read_bytes())
        except (OSError, ValueError):
            return cls(0, _LARGEST[dtype in _HALF])
        text = config.get("text_config") or config
        width = text.get("hidden_size", text.get("n_embd"))
        own = dtype if dtype not in ("", "auto") else str(config.get("dtype", config.get("torch_dtype")))
        longest = context_length or text.get("max_position_embeddings")
        return cls(
            width if isinstance(width, int) else 0,
            _LARGEST[own in _HALF],
            longest if isinstance(longest, int) else 0,
            table_of(directory),
        )


def with_vectors(endpoint: str, fields: Mapping[str, Any], form: Form) -> dict[str, Any]:
    """Return a request's `fields` with its vectors as vLLM takes them.

    Parts that are tokens become rows of the model's table. Raises `BadRequest`; takes time with many.
    """
    if endpoint == "completions" and fields.get(PART) not in (None, []):
        if fields.get("prompt"):
            raise BadRequest(f"give `prompt` or `{PART}`, not both", param=PART)
        return {**{name: value for name, value in fields.items() if name != "prompt"}, PART: _prompts(fields, form)}
    if endpoint == "chat/completions" and isinstance(messages := fields.get("messages"), list):
        return {**fields, "messages": [_message(one, form) for one in messages]}
    return dict(fields)


def _prompts(fields: Mapping[str, Any], form: Form) -> list[str]:
    given = fields[PART]
    several = given if isinstance(given, list) and given and not isinstance(given[0], dict) else [given]
    return [_saved(_joined(_parts(one, form), form, PART)) for one in several]


def _parts(prompt: object, form: Form) -> list[str | list[Any]]:
    """The parts of one prompt: vectors, or tokens where the model's table is known."""
    parts: list[Any] = prompt if isinstance(prompt, list) else [{"type": PART, PART: prompt}]
    found = [_given(part) for part in parts]
    tokens = [len(one) for one in found if isinstance(one, list)]
    if not parts or None in found or (tokens and form.table is None):
        raise UnsupportedFeature(
            "vLLM takes vectors alone here; have a replica of the torch engine mix them", param=PART
        )
    if sum(tokens) > form.longest > 0:
        raise ContextLengthExceeded(f"the model takes {form.longest} tokens, and there are {sum(tokens)}", param=PART)
    return [one for one in found if one is not None]


def _given(part: object) -> str | list[Any] | None:
    if _is_vectors(part):
        return str(part[PART])
    tokens = part.get(TOKENS) if isinstance(part, dict) and part.get("type") == TOKENS else None
    return tokens if isinstance(tokens, list) else None


def _is_vectors(part: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(part, dict) and part.get("type") == PART and isinstance(part.get(PART), str)


def _message(message: object, form: Form) -> object:
    parts = message.get("content") if isinstance(message, dict) else None
    if not isinstance(message, dict) or not isinstance(parts, list) or not any(map(_is_vectors, parts)):
        return message
    if not all(map(_is_vectors, parts)):
        raise UnsupportedFeature(
            "vLLM takes vectors alone in a message; have a replica of the torch engine mix them", param="messages"
        )
    saved = _saved(_joined([part[PART] for part in parts], form, "messages"))
    return {**message, "content": [{"type": PART, "data": saved}]}


def _joined(parts: Iterable[str | list[Any]], form: Form, param: str) -> list[Array]:
    """What `parts` hold, of one type: that of all, or 32-bit floats."""
    try:
        arrays = [_read(part, form) for part in parts]
        if len({one.shape[1] for one in arrays}) > 1:
            raise BadRequest("the vectors of one prompt must have one width")
    except BadRequest as error:
        raise BadRequest(f"{param}: {error.message}", param=param) from None
    arrays = [one for one in arrays if one.elements]
    if not arrays:
        raise BadRequest(f"{param}: there is nothing in the prompt", param=param)
    return arrays if len({one.dtype for one in arrays}) == 1 else [one.as_f32() for one in arrays]


def _read(part: str | list[Any], form: Form) -> Array:
    if isinstance(part, list) and form.table is not None:
        return form.table.rows(part)
    return _checked(_array(decode_base64(str(part))), form)


def _array(data: bytes) -> Array:
    if data.startswith((b"\x80", b"PK")):
        raise BadRequest("this is a pickle or an archive, which is not taken; send a safetensors or a .npy file")
    if data.startswith(NPY_MAGIC):
        return _npy(data)
    arrays, _ = unpack(data)
    if len(arrays) != 1:
        raise BadRequest(f"the safetensors file must hold one array, not {len(arrays)}")
    return next(iter(arrays.values()))


def _npy(data: bytes) -> Array:
    wide = _NPY_SIZES.get(data[6:8], 0)
    start = 8 + wide
    size = int.from_bytes(data[8:start], "little")
    try:
        header = ast.literal_eval(data[start : start + min(size, _LONGEST_NPY_HEADER)].decode("latin1").strip())
        kind, shape, fortran = header["descr"], header["shape"], header["fortran_order"]
        dtype = _NPY[kind[1:]] if kind[0] in "<=" else None
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError):
        dtype = None
    if not wide or dtype is None or fortran or not isinstance(shape, tuple):
        raise BadRequest("this is not a .npy file of little-endian float32, float16 or float64 in C order")
    body = memoryview(data)[start + size :]
    sides = tuple(side for side in shape if type(side) is int and side >= 0)
    found = Array(dtype, sides, body)
    if len(sides) < len(shape) or found.nbytes != len(body):
        raise BadRequest(
            f"the .npy file has {len(body)} bytes of elements, but its shape {list(shape)} asks for others"
        )
    return found


def _checked(found: Array, form: Form) -> Array:
    if not found.dtype.is_float:
        raise BadRequest(f"the vectors are {found.dtype}; send F32, F16, BF16 or F64")
    if len(found.shape) != 2 or (form.width and found.shape[1] != form.width):
        width = form.width or "width"
        raise BadRequest(f"the vectors have the shape {list(found.shape)}; this model takes [n, {width}]")
    if not found.elements:
        raise BadRequest("there is no vector")
    if not found.is_finite():
        raise BadRequest("a number is infinite or not a number (NaN)")
    if max(map(abs, found.numbers())) > form.largest:
        raise BadRequest("a number is too large for the type in which the model computes")
    return found


def _saved(arrays: list[Array]) -> str:
    """Base64 of `arrays`, one below the other, as `torch.save` writes them."""
    first = arrays[0]
    shape = (sum(one.shape[0] for one in arrays), first.shape[1])
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", _pickle(first.dtype, shape))
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/data/0", b"".join(one.data for one in arrays))
        archive.writestr("archive/version", b"3\n")
    return base64.b64encode(file.getvalue()).decode()


def _pickle(dtype: DType, shape: tuple[int, int]) -> bytes:
    """A pickle (protocol 2) of one tensor: `_rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())`."""
    rows, width = shape
    storage = b"(" + _text(b"storage") + b"ctorch\n" + _STORAGES[dtype] + b"Storage\n" + _text(b"0") + _text(b"cpu")
    storage += _number(rows * width) + b"tQ"  # a tuple, and what it stands for
    sides = _number(rows) + _number(width) + b"\x86" + _number(width) + _number(1) + b"\x86"
    rest = b"\x89" + b"ccollections\nOrderedDict\n)R"  # needs no gradient, has no hooks
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + _number(0) + sides + rest + b"tR."


def _text(text: bytes) -> bytes:
    return b"X" + len(text).to_bytes(4, "little") + text


def _number(number: int) -> bytes:
    return b"J" + number.to_bytes(4, "little", signed=True)

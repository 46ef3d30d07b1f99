"""What the files of soft prompts and projectors must be: safetensors, without code."""

import re
from itertools import pairwise

from terascope.core.errors import BadRequest
from terascope.internals.arrays import Array
from terascope.internals.packing import unpack

ACTIVATIONS = ("gelu", "relu", "silu", "tanh")
MOST_LAYERS = 8
MOST_BYTES = 32 << 20
"""Of an artefact: it travels to the engine with every request that uses it."""
_PARAMETER = re.compile(r"([0-9])\.(weight|bias)")


def soft_prompt_shape(data: bytes) -> tuple[int, ...]:
    """Return [vectors, width] of a soft prompt: one array of finite floats. Raises `BadRequest`."""
    arrays = _floats(data)
    if len(arrays) != 1:
        raise BadRequest(f"a soft prompt is one array, not {len(arrays)}", param="data")
    (array,) = arrays.values()
    if len(array.shape) != 2 or not array.elements:
        raise BadRequest(f"a soft prompt has the shape [vectors, width], not {list(array.shape)}", param="data")
    return array.shape


def projector_widths(data: bytes) -> tuple[int, ...]:
    """Return the widths of a projector from its input to its output.

    Its layers are `0.weight` [out, in] and `0.bias` [out], `1.weight` and so on, as torch.nn.Linear has them; a bias
    may be missing. Raises `BadRequest` for anything else.
    """
    arrays = _floats(data)
    if odd := next((name for name in arrays if not _PARAMETER.fullmatch(name)), ""):
        raise BadRequest(
            f"there is no parameter {odd[:60]!r} in a projector; it has 0.weight, 0.bias, 1.weight, ...", param="data"
        )
    layers = sum(name.endswith("weight") for name in arrays)
    if not 1 <= layers <= MOST_LAYERS or {int(name[0]) for name in arrays} != set(range(layers)):
        raise BadRequest(
            f"a projector has 1 to {MOST_LAYERS} layers, numbered from 0, each with a weight", param="data"
        )
    weights = [arrays[f"{layer}.weight"] for layer in range(layers) if f"{layer}.weight" in arrays]
    if len(weights) < layers or any(len(one.shape) != 2 or not one.elements for one in weights):
        raise BadRequest("each weight of a projector has the shape [out, in]", param="data")
    if any(after.shape[1] != before.shape[0] for before, after in pairwise(weights)):
        raise BadRequest("each layer of a projector takes as many numbers as the one before gives", param="data")
    for layer, weight in enumerate(weights):
        bias = arrays.get(f"{layer}.bias")
        if bias is not None and bias.shape != weight.shape[:1]:
            raise BadRequest(f"{layer}.bias has the shape {list(bias.shape)}, not {[weight.shape[0]]}", param="data")
    return (weights[0].shape[1], *(one.shape[0] for one in weights))


def _floats(data: bytes) -> dict[str, Array]:
    try:
        arrays, _ = unpack(data)
    except BadRequest as error:
        raise BadRequest(f"data: {error.message}", param="data") from None
    for name, one in arrays.items():
        if not one.dtype.is_float or not one.is_finite():
            raise BadRequest(f"the array {name[:60]!r} must be floats, all finite", param="data")
    return arrays

"""Small networks that map somebody's vectors to a model's: weights and a schema, no code."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

import torch
from torch import Tensor
from torch.nn import functional

from terascope.core.errors import BadRequest
from terascope.engines.torch.tracing.tensors import tensor_of
from terascope.internals.artefacts import projector_widths
from terascope.internals.packing import decode_base64, unpack

_KEPT = 8
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "relu": torch.relu,
    "silu": functional.silu,
    "tanh": torch.tanh,
}


@dataclass(frozen=True, slots=True)
class Projector:
    """Linear layers, [weight, bias or None] each, with an activation between them. Computes in float32 on the CPU."""

    layers: Sequence[tuple[Tensor, Tensor | None]]
    activation: str

    @property
    def width(self) -> int:
        """How many numbers it takes."""
        return int(self.layers[0][0].shape[1])

    @property
    def output(self) -> int:
        """How many it gives."""
        return int(self.layers[-1][0].shape[0])

    @torch.inference_mode()
    def __call__(self, vectors: Tensor) -> Tensor:
        """Return [n, output] of `vectors` [n, width]."""
        x = vectors.float()
        for number, (weight, bias) in enumerate(self.layers):
            x = functional.linear(ACTIVATIONS[self.activation](x) if number else x, weight, bias)
        return x


class Projectors:
    """Reads projectors as they are sent, and keeps the last few. Safe to use from several threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[bytes, str], Projector] = OrderedDict()
        self._lock = Lock()

    def read(self, text: str, activation: str) -> Projector:
        """Return the projector in `text`, base64 of a safetensors file. Raises `BadRequest` for anything else."""
        if activation not in ACTIVATIONS:
            raise BadRequest(f"encoder.activation must be one of {', '.join(ACTIVATIONS)}", param="encoder")
        key = hashlib.blake2b(text.encode(), digest_size=16).digest(), activation
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = _read(text, activation)
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return made


def _read(text: str, activation: str) -> Projector:
    try:
        data = decode_base64(text)
        layers = len(projector_widths(data)) - 1
    except BadRequest as error:
        raise BadRequest(f"encoder: {error.message}", param="encoder") from None
    cpu = torch.device("cpu")
    arrays = {name: tensor_of(array, cpu).float() for name, array in unpack(data)[0].items()}
    return Projector([(arrays[f"{n}.weight"], arrays.get(f"{n}.bias")) for n in range(layers)], activation)

"""Requests to `/v1/embeddings`, and their answers."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from terascope.core.errors import BadRequest, UnsupportedFeature
from terascope.engines.torch.intake import Intake
from terascope.engines.torch.pooling import EACH, WIRE, Ask
from terascope.engines.torch.prompt_reader import prompt_list
from terascope.engines.torch.vocabulary import Vocabulary
from terascope.engines.torch.windows import Around, Piece, Truncate, Windows, cut, divide
from terascope.protocol.openai import EmbeddingRequest, WindowFields

MOST_INPUTS = 2048
MOST_STREAMED = 100_000


@dataclass(frozen=True, slots=True)
class VectorModel:
    """What a model's vectors are: `width` numbers from one of `layers` layers, pooled and normalized by default so.

    `layers` is 0 where only the last can be seen. `matryoshka` are the dimensions that it was trained to be cut to.
    """

    vocabulary: Vocabulary
    context_length: int
    width: int
    layers: int
    pooling: str
    normalize: bool
    matryoshka: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class EmbeddingOrder:
    """A request as it is computed. `scaled` vectors have the length 1."""

    inputs: Sequence[str | list[int]]
    ask: Ask
    scaled: bool
    dimensions: int | None = None
    truncate: Truncate = Truncate.ERROR
    windows: Windows | None = None
    combined: bool = True
    base64: bool = False
    matryoshka: bool = False

    def applied(self) -> dict[str, Any]:
        """What the receipt says of how the vectors were made."""
        names = {pooling: name for name, pooling in WIRE.items()}
        told: dict[str, Any] = {
            "layer": "last" if self.ask.layer is None else self.ask.layer,
            "pooling": names.get(self.ask.pooling, self.ask.pooling),
            "normalize": self.scaled,
            "truncate": self.truncate.value,
        }
        if self.dimensions is not None:
            told |= {"dimensions": self.dimensions, "dimensions_by": "matryoshka" if self.matryoshka else "truncation"}
        return told | ({"window": self.windows.size, "overlap": self.windows.overlap} if self.windows else {})


class EmbeddingIntake:
    """Reads requests for the vectors of one model. Safe to use from several threads."""

    def __init__(self, model: VectorModel) -> None:
        self._model = model
        self._intake = Intake(model.vocabulary, model.context_length)
        self._around = Around.of(model.vocabulary)

    def read(self, request: EmbeddingRequest) -> EmbeddingOrder:
        """Return how the request's vectors are to be made.

        Raises `BadRequest` for what cannot be, also when an input is empty, or there are too many. How long the inputs
        are shows in `pieces`.
        """
        model = self._model
        inputs = prompt_list(request.input)
        _check_inputs(inputs, MOST_STREAMED if request.stream else MOST_INPUTS)
        pooling = WIRE[request.pooling] if request.pooling else model.pooling
        dimensions = self._dimensions(request.dimensions)
        by_default = (model.normalize and pooling != EACH) or dimensions is not None
        return EmbeddingOrder(
            inputs,
            Ask(pooling, self._layer(request.layer)),
            by_default if request.normalize is None else request.normalize,
            dimensions,
            Truncate(request.truncate or "error"),
            self._windows(request.windows, cut=request.truncate in ("start", "end")),
            request.windows is None or request.windows.combine != "none",
            request.encoding_format == "base64",
            dimensions in model.matryoshka,
        )

    def pieces(self, order: EmbeddingOrder, index: int) -> list[Piece]:
        """Return what is to be computed for the input `index`. Raises `BadRequest` when it is too long."""
        given, param = order.inputs[index], f"input[{index}]"
        around = self._around if isinstance(given, str) else Around()
        tokens = self._model.vocabulary.encode(given, special=True) if isinstance(given, str) else given
        self._intake.check_tokens(tokens, "input")
        if not tokens:
            raise BadRequest(f"{param} is empty", param="input")
        most = self._model.context_length
        if order.windows is not None and len(tokens) > order.windows.size:
            return list(divide(around.inside(tokens), around, order.windows))
        if len(tokens) > most and order.truncate is not Truncate.ERROR:
            return [cut(around.inside(tokens), around, most, order.truncate)]
        self._intake.check_length(tokens, param)
        return [Piece(tokens, 0, len(tokens) - around.count)]

    def _layer(self, layer: int | None) -> int | None:
        """The number of `hidden_states`, None for the last."""
        layers = self._model.layers
        if layer is None or layer in (-1, layers or -1):
            return None
        if not layers:
            raise UnsupportedFeature("of this model only the last layer can be seen; leave `layer` out", param="layer")
        if not -layers - 1 <= layer <= layers:
            raise BadRequest(
                f"layer is {layer}; the model has {layers} layers: 0 is what the first one gets, {layers} or -1 what "
                "the last gives",
                param="layer",
            )
        return layer % (layers + 1)

    def _dimensions(self, dimensions: int | None) -> int | None:
        if dimensions is not None and dimensions > self._model.width:
            raise BadRequest(
                f"dimensions is {dimensions}, but the model's vectors have {self._model.width}", param="dimensions"
            )
        return dimensions

    def _windows(self, asked: WindowFields | None, *, cut: bool) -> Windows | None:
        if asked is None:
            return None
        if cut:
            raise BadRequest("an input in windows is not cut; leave `truncate` out", param="truncate")
        most, around = self._model.context_length, self._around.count
        size, overlap = most if asked.size is None else asked.size, asked.overlap or 0
        if size > most:
            raise BadRequest(f"a window of {size} tokens is longer than the context of {most}", param="windows.size")
        least = max(2 * around, 1)
        if size < least:
            raise BadRequest(
                f"a window has at least {least} tokens here: the tokenizer puts {around} around each",
                param="windows.size",
            )
        if 2 * overlap > size - around:
            raise BadRequest(
                f"windows of {size} tokens, {around} of them put around every text, can share at most half of the "
                f"rest, not {overlap}",
                param="windows.overlap",
            )
        return Windows(size, overlap)


def item(order: EmbeddingOrder, index: int, pieces: Sequence[Piece], vectors: Sequence[Tensor]) -> dict[str, Any]:
    """Return the answer for the input `index`, of whose `pieces` these are the pooled `vectors`."""
    value = _finished(_together(order, pieces, vectors), order)
    told = {"object": "embedding", "index": index, "embedding": _encoded(value, order)}
    if value.dim() > 1 and order.base64:
        told["shape"] = list(value.shape)
    if order.windows is not None and not order.combined:
        told["windows"] = [[piece.start, piece.end] for piece in pieces]
    return told


def usage(pieces: Sequence[Sequence[Piece]]) -> int:
    """Return how many tokens are computed for inputs."""
    return sum(len(piece.tokens) for one in pieces for piece in one)


def _check_inputs(inputs: Sequence[str | list[int]], most: int) -> None:
    if not 1 <= len(inputs) <= most:
        more = "" if most == MOST_STREAMED else f", with `stream` {MOST_STREAMED}"
        raise BadRequest(f"input: one request has 1 to {most} inputs{more}, not {len(inputs)}", param="input")
    empty = next((index for index, one in enumerate(inputs) if not one), None)
    if empty is not None:
        raise BadRequest(f"input[{empty}] is empty", param="input")


def _together(order: EmbeddingOrder, pieces: Sequence[Piece], vectors: Sequence[Tensor]) -> Tensor:
    """One vector of an input, or a matrix: of its tokens, or of its windows."""
    if order.ask.pooling == EACH:
        parts = [one[piece.front : len(one) - piece.back] for piece, one in zip(pieces, vectors, strict=True)]
        return torch.cat(parts)
    if not order.combined:
        return torch.stack(list(vectors))
    if len(pieces) == 1:
        return vectors[0]
    weights = torch.tensor([float(len(piece.tokens)) for piece in pieces])
    return (torch.stack(list(vectors)) * (weights / weights.sum())[:, None]).sum(0)


def _finished(value: Tensor, order: EmbeddingOrder) -> Tensor:
    shown = value if order.dimensions is None else value[..., : order.dimensions]
    return torch.nn.functional.normalize(shown, dim=-1) if order.scaled else shown


def _encoded(value: Tensor, order: EmbeddingOrder) -> str | list[Any]:
    numbers = value.contiguous().numpy().astype("<f4")
    if order.base64:
        return base64.b64encode(numbers.tobytes()).decode()
    found: list[Any] = numbers.tolist()
    return found

"""Requests to `/v1/embeddings`, and their answers."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from terascope.core.errors import BadRequest
from terascope.engines.torch.encoder import Encoder
from terascope.engines.torch.intake import Intake, prompt_list
from terascope.protocol.openai import EmbeddingRequest

_MOST_INPUTS = 2048


@dataclass(frozen=True, slots=True)
class EmbeddingOrder:
    """A request as the loop takes it: the tokens of each input."""

    inputs: Sequence[Sequence[int]]
    dimensions: int | None
    base64: bool

    @property
    def tokens(self) -> int:
        """Tokens of all inputs."""
        return sum(map(len, self.inputs))


def read(request: EmbeddingRequest, encoder: Encoder) -> EmbeddingOrder:
    """Return the request's inputs. Raises `BadRequest` when one is empty, too long, or there are too many."""
    if request.dimensions is not None and request.dimensions > encoder.width:
        raise BadRequest(
            f"dimensions is {request.dimensions}, but the model's vectors have {encoder.width}", param="dimensions"
        )
    given = prompt_list(request.input)
    if not 1 <= len(given) <= _MOST_INPUTS:
        raise BadRequest(f"input: one request has 1 to {_MOST_INPUTS} inputs, not {len(given)}", param="input")
    intake = Intake(encoder.vocabulary, encoder.context_length)
    inputs = [_tokens(one, index, encoder, intake) for index, one in enumerate(given)]
    return EmbeddingOrder(inputs, request.dimensions, request.encoding_format == "base64")


def answer(order: EmbeddingOrder, vectors: Sequence[Tensor], model: str) -> dict[str, Any]:
    """Return the answer with `vectors`, one for each input."""
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(_cut(vector, order.dimensions), order)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": order.tokens, "total_tokens": order.tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def _tokens(one: str | list[int], index: int, encoder: Encoder, intake: Intake) -> list[int]:
    if isinstance(one, str):
        found = encoder.vocabulary.encode(one, special=True) if one else []
    else:
        intake.check_tokens(one, "input")
        found = one
    if not found:
        raise BadRequest(f"input[{index}] is empty", param="input")
    intake.check_length(found, f"input[{index}]")
    return found


def _cut(vector: Tensor, dimensions: int | None) -> Tensor:
    if dimensions is None or dimensions == len(vector):
        return vector
    return torch.nn.functional.normalize(vector[:dimensions], dim=-1)


def _encoded(vector: Tensor, order: EmbeddingOrder) -> str | list[float]:
    numbers = vector.numpy().astype("<f4")
    return base64.b64encode(numbers.tobytes()).decode() if order.base64 else numbers.tolist()

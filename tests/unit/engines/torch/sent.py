"""Vectors as clients send them."""

import base64
import io

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from terascope.engines.torch.model import CausalModel


def as_npy(vectors: Tensor | np.ndarray) -> str:
    """As `numpy.save` writes them."""
    file = io.BytesIO()
    np.save(file, vectors.numpy() if isinstance(vectors, Tensor) else vectors, allow_pickle=False)
    return base64.b64encode(file.getvalue()).decode()


def as_safetensors(*vectors: Tensor) -> str:
    """As a safetensors file, an array by its number."""
    arrays = {str(number): one.contiguous().clone() for number, one in enumerate(vectors)}
    return base64.b64encode(safetensors.torch.save(arrays)).decode()


def rows_of(model: CausalModel, tokens: list[int]) -> Tensor:
    """The rows of the embedding table that `tokens` stand for."""
    with torch.inference_mode():
        found: Tensor = model.packed.module.get_input_embeddings()(
            torch.tensor(tokens, device=model.packed.device)
        ).cpu()
    return found.clone()

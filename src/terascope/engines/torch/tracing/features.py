"""Sparse autoencoders with supplied weights."""

import torch
from torch import Tensor

from terascope.engines.torch.tracing.tensors import tensor_of
from terascope.internals.arrays import Array
from terascope.internals.plan import EditFeature, FeatureChange
from terascope.internals.reductions import Activation, SparseAutoencoder


class Autoencoder:
    """One autoencoder, its weights as tensors of one device."""

    def __init__(self, weights: SparseAutoencoder, device: torch.device) -> None:
        self._about = weights
        self._device = device
        self._encoder = tensor_of(weights.encoder, device)
        self._bias = self._tensor(weights.encoder_bias)
        self._center = self._tensor(weights.decoder_bias) if weights.center else None
        self._threshold = self._tensor(weights.threshold)
        self._decoder = self._tensor(weights.decoder)

    def encode(self, x: Tensor) -> Tensor:
        """Return the features' activations [..., features] of `x` [..., units]."""
        x = x if self._center is None else x - self._center
        scores = x @ self._encoder.to(x.dtype)
        scores = scores if self._bias is None else scores + self._bias
        if self._about.activation is Activation.JUMP_RELU and self._threshold is not None:
            return torch.where(scores > self._threshold, scores, 0)
        active = scores.relu()
        if self._about.activation is not Activation.TOP_K:
            return active
        values, features = active.topk(self._about.k, dim=-1)
        return torch.zeros_like(active).scatter(-1, features, values)

    def edited(self, x: Tensor, edit: EditFeature) -> Tensor:
        """Return `x` with one feature's activation changed and the rest of it, what was never encoded too, kept."""
        if self._decoder is None:
            raise RuntimeError("an edit came without the autoencoder's decoder")
        now = self.encode(x)[..., edit.feature]
        changed = {
            FeatureChange.SET: torch.full_like(now, edit.amount),
            FeatureChange.ADD: now + edit.amount,
            FeatureChange.SCALE: now * edit.amount,
        }[edit.change]
        return x + (changed - now)[..., None] * self._decoder[edit.feature]

    def _tensor(self, array: Array | None) -> Tensor | None:
        return None if array is None else tensor_of(array, self._device)

"""What is made of a capture on the worker, so that little travels.

What is captured is x [tokens, heads, units], without heads where the site has none.
"""

from dataclasses import dataclass
from enum import StrEnum

from terascope.internals.arrays import Array


class Over(StrEnum):
    """Along which axis a mean or a maximum is taken."""

    TOKENS = "tokens"
    HEADS = "heads"
    UNITS = "units"


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean along an axis, which goes away. Over tokens: all that were chosen, in all steps."""

    over: Over = Over.TOKENS


@dataclass(frozen=True, slots=True)
class Max:
    """The largest along an axis, which goes away; over tokens as with `Mean`."""

    over: Over = Over.TOKENS


@dataclass(frozen=True, slots=True)
class Norm:
    """The Euclidean norm along the last axis, which goes away."""


@dataclass(frozen=True, slots=True)
class TopK:
    """The `k` largest along the last axis, the largest first: their values and their indices.

    Indices are those of the site, also when only some units were captured.
    """

    k: int


@dataclass(frozen=True, slots=True)
class LogitLens:
    """The `k` likeliest next tokens if the model ended here: the final norm (but at the site `norm`, which is behind
    it), the unembedding, log-softmax; log-probabilities and tokens, the likeliest first."""

    k: int


@dataclass(frozen=True, slots=True)
class TunedLens:
    """The logit lens of x + x @ weight.T + bias (Belrose et al., 2023). `weight` [width, width], `bias` [width]."""

    k: int
    weight: Array
    bias: Array | None = None


@dataclass(frozen=True, slots=True)
class Project:
    """(x - center) @ directions.T: `directions` [n, units], `center` [units]; for PCA the components and the mean."""

    directions: Array
    center: Array | None = None


class Activation(StrEnum):
    """What makes an autoencoder's activations sparse."""

    RELU = "relu"
    JUMP_RELU = "jump_relu"
    """The value where it is above the feature's threshold, else 0."""
    TOP_K = "top_k"
    """The autoencoder's `k` largest of relu's, else 0."""


@dataclass(frozen=True, slots=True)
class SparseAutoencoder:
    """activation((x - decoder_bias) @ encoder + encoder_bias), with `center` False without the subtraction.

    `encoder` [units, features], `encoder_bias` [features], `decoder` [features, units], `decoder_bias` [units],
    `threshold` [features]; `k` is of `TOP_K`.
    """

    encoder: Array
    encoder_bias: Array | None = None
    decoder: Array | None = None
    decoder_bias: Array | None = None
    threshold: Array | None = None
    activation: Activation = Activation.RELU
    k: int = 0
    center: bool = True

    @property
    def features(self) -> int:
        """How many it has."""
        return self.encoder.shape[1]


@dataclass(frozen=True, slots=True)
class Encode:
    """The `k` most active features of an autoencoder, the most active first: their activations and numbers."""

    autoencoder: SparseAutoencoder
    k: int


Reduction = Mean | Max | Norm | TopK | LogitLens | TunedLens | Project | Encode

"""What must be known of a model to say which sites it has and how large they are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """What a model's blocks see: what came before, or the whole text."""

    DECODER = "decoder"
    ENCODER = "encoder"


class Attention(StrEnum):
    """How a model keeps keys and values."""

    SOFTMAX = "softmax"
    """A key and a value for each key-value head: multi-head, grouped-query and multi-query attention."""
    LATENT = "latent"
    """Multi-head latent attention (MLA): keys and values of all heads are computed from one latent vector."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A model's sizes, each a number of elements.

    `width` is the residual stream's. `head_width` is that of a query and a key, `value_width` that of a value and of
    what a head gives, where it differs. `neurons` is the width inside the MLP of the layers that have one. The layers
    `moe_layers` have a router over `experts` experts instead, of which `experts_per_token` are used, each with
    `expert_neurons` inside. The layers `linear_layers` have attention without probabilities. `modules` holds paths of
    modules with the widths of their input and output (0: not known); when it is empty, any path is taken.
    """

    layers: int
    width: int
    heads: int
    head_width: int
    vocabulary: int
    neurons: int = 0
    kv_heads: int = 0
    value_width: int = 0
    experts: int = 0
    experts_per_token: int = 0
    expert_neurons: int = 0
    moe_layers: tuple[int, ...] = ()
    linear_layers: tuple[int, ...] = ()
    kind: Kind = Kind.DECODER
    attention: Attention = Attention.SOFTMAX
    final_norm: bool = True
    modules: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    """Places that its blocks do not have, such as `residual.mid` where attention and MLP act side by side."""

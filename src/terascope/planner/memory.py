"""What each GPU holds of a model, in parts, and what is left for sequences."""

import math
from dataclasses import dataclass

from terascope.planner.hardware import Cluster
from terascope.planner.layout import Layout
from terascope.planner.precision import WIDTHS
from terascope.planner.shapes import Architecture, FeedForward

GIB = 2**30
STEP_TOKENS = 8192
"""Tokens that engines compute at once at most, by default."""
SEQUENCES = 1024
"""Sequences whose logits they keep at once at most."""
_BF16 = 2
_RUNTIME = 1.0 * GIB
"""Context of the driver and captured graphs; vLLM 0.9 to 0.19 on H100 and H200 had 0.7 to 1.3."""
_GROUP_BUFFERS = 0.42 * GIB
"""NCCL and all-reduce buffers of a tensor group; vLLM had 0.13 GiB outside torch with one GPU and 0.55 with two."""
_EXCHANGE_BUFFERS = 1.0 * GIB
"""Buffers of an all-to-all between experts."""
_LIVE_VALUES = 24
"""Values of the model's width that are live for each token of a step: residuals, queries, keys, values, gates."""
_LOGIT_BYTES = 10
"""Logits in bf16 and float32, and a sorted copy."""
_PADDED = {"mxfp4": 256}
"""To what multiple engines fill up the width of an expert."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one GPU, of the stage that needs most."""

    weights: float
    activations: float
    buffers: float
    runtime: float
    cache: float
    """What is left for the KV cache; negative when even the rest does not fit."""
    per_token: float
    """Bytes of cache for each token of a sequence on this GPU."""
    per_sequence: float
    """Bytes that each sequence needs besides: windows and states of linear attention."""

    @property
    def needed(self) -> float:
        """What must fit before the first sequence."""
        return self.weights + self.activations + self.buffers + self.runtime

    def sequences(self, tokens: float) -> int:
        """How many sequences of `tokens` tokens fit, of those that this GPU takes part in."""
        return max(0, math.floor(self.cache / (tokens * self.per_token + self.per_sequence or 1)))

    def missing(self, tokens: float) -> float:
        """Bytes that are missing for one sequence of `tokens` tokens; 0 where it fits."""
        return max(0.0, tokens * self.per_token + self.per_sequence - self.cache)

    def context(self, limit: int) -> int:
        """The longest single sequence that fits, at most `limit` tokens."""
        if self.cache < self.per_sequence:
            return 0
        return min(limit, math.floor((self.cache - self.per_sequence) / self.per_token)) if self.per_token else limit


def memory(shapes: Architecture, cluster: Cluster, layout: Layout, utilization: float = 0.9) -> Memory:
    """Return what a GPU holds; `utilization` is the part of its memory that the engine may use."""
    weights, activations = weight_bytes(shapes, layout), _activations(shapes, layout)
    buffers = (_GROUP_BUFFERS if layout.gpus > 1 else 0.0) + (_EXCHANGE_BUFFERS if layout.dp > 1 else 0.0)
    used = weights + activations + buffers + _RUNTIME
    return Memory(
        weights=weights,
        activations=activations,
        buffers=buffers,
        runtime=_RUNTIME,
        cache=cluster.gpu.memory * utilization - used,
        per_token=_per_token(shapes, layout),
        per_sequence=_per_sequence(shapes, layout),
    )


def weight_bytes(shapes: Architecture, layout: Layout) -> float:
    """Bytes of weights of the GPU that has most of them."""
    weights = layout.weights
    attention = shapes.attention_parameters * WIDTHS[weights.attention] / layout.tp
    layers = attention + sum(n * _feed_forward(one, layout) for one, n in shapes.feed_forward)
    ends = 1 if layout.pp == 1 or shapes.embeddings == shapes.hidden * shapes.vocabulary else 2
    return layers * stage_share(shapes, layout) + shapes.embeddings * _BF16 / layout.tp / ends


def stage_share(shapes: Architecture, layout: Layout) -> float:
    """Part of the layers that the longest stage has."""
    return math.ceil(shapes.layers / layout.pp) / shapes.layers


def _feed_forward(one: FeedForward, layout: Layout) -> float:
    weights = layout.weights
    everywhere = (one.dense * WIDTHS[weights.dense] + one.router * _BF16) / layout.tp
    return everywhere + layout.held(one.experts) * _expert_bytes(one, layout) / layout.expert_tp


def _expert_bytes(one: FeedForward, layout: Layout) -> float:
    name = layout.weights.experts
    multiple = _PADDED.get(name, 1)
    padded = math.ceil(one.inner / multiple) * multiple / one.inner if one.inner else 1.0
    return one.expert * WIDTHS[name] * padded


def _activations(shapes: Architecture, layout: Layout) -> float:
    tokens = min(STEP_TOKENS, shapes.context)
    grouped = max((one.chosen * (2 * one.width + 2 * one.inner / layout.expert_tp) for one, _ in shapes.feed_forward))
    logits = SEQUENCES * shapes.vocabulary * _LOGIT_BYTES
    return tokens * (_LIVE_VALUES * shapes.hidden + grouped) * _BF16 + logits


def _per_token(shapes: Architecture, layout: Layout) -> float:
    total = 0.0
    for one, n in shapes.attention:
        heads = min(layout.tp, one.cache_heads)
        values = 0.0 if one.window else one.cache_values * layout.cache_width / heads
        total += n * (values + one.index_bytes) / layout.cp
    return total * stage_share(shapes, layout)


def _per_sequence(shapes: Architecture, layout: Layout) -> float:
    total = 0.0
    for one, n in shapes.attention:
        windows = one.window * one.cache_values * layout.cache_width / min(layout.tp, one.cache_heads)
        shared = min(layout.tp, one.heads) if not one.cache_values else 1
        total += n * (windows + one.state_bytes / shared)
    return total * stage_share(shapes, layout)

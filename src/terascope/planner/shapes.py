"""A model as numbers: its layers, what they hold and what a token costs in them.

Everything is for one layer of a kind, before it is divided over GPUs. A floating-point operation is a multiplication or
an addition, so a weight costs two of them for each token.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Attention:
    """One kind of attention layer (or of what stands in its place: linear attention, state space)."""

    kind: str
    """`grouped`, `latent`, `compressed`, `linear` or `mamba`."""
    parameters: int
    heads: int
    """Query heads: tensor parallelism divides them, and the weights with them."""
    cache_heads: int = 1
    """Parts over which tensor parallelism divides the cache; what has one part is kept whole by every GPU."""
    cache_values: float = 0
    """Values kept for each token."""
    index_bytes: float = 0
    """Bytes kept for each token by the index that chooses what a query reads."""
    state_bytes: int = 0
    """Bytes kept for each sequence, however long it is."""
    window: int = 0
    """Tokens that a query sees at most, and that are kept; 0: all."""
    chosen: int = 0
    """Tokens that a query reads at most of those kept; 0: all."""
    pair_flops: int = 0
    """Operations for one query and one key while a prompt is computed."""
    decode_flops: int = 0
    """The same for one new token against the cache."""
    index_flops: int = 0
    """The same in the index."""
    token_flops: int = 0
    """Operations for each token beside the weights: what linear attention does to its state."""

    def kept(self, context: float) -> float:
        """How many tokens' values are kept of a sequence of `context` tokens."""
        return min(context, self.window or context)

    def read(self, context: float) -> float:
        """How many tokens' values a new token reads at `context` tokens."""
        return min(self.kept(context), self.chosen or context)

    def cache_bytes(self, value_bytes: float) -> float:
        """Bytes that each token of a sequence adds for ever; 0 where only a window or a state is kept."""
        return 0.0 if self.window else self.cache_values * value_bytes + self.index_bytes

    def fixed_bytes(self, value_bytes: float) -> float:
        """Bytes that a long sequence has however long it is."""
        return self.state_bytes + self.window * self.cache_values * value_bytes


@dataclass(frozen=True, slots=True)
class FeedForward:
    """One kind of feed-forward layer: dense, or a mixture of experts with what goes beside them."""

    dense: int
    """Parameters that every token passes: a dense layer, shared experts, projections into and out of a latent width."""
    experts: int = 0
    expert: int = 0
    """Parameters of one routed expert."""
    chosen: int = 0
    """Experts for each token."""
    router: int = 0
    inner: int = 0
    """Width inside an expert: what tensor parallelism divides."""
    width: int = 0
    """Width of what is sent to an expert and comes back."""
    groups: int = 0
    """Most groups of experts that a token's choice may be in; 0: any. Engines keep a group on a node."""

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.dense + self.router + self.experts * self.expert

    @property
    def active(self) -> int:
        """Those that a token passes."""
        return self.dense + self.router + self.chosen * self.expert

    def hit(self, tokens: float) -> float:
        """How many experts `tokens` tokens reach on average, if each chooses evenly and by itself."""
        if not self.experts or tokens <= 0:
            return 0.0
        return self.experts * (1 - math.pow(1 - self.chosen / self.experts, tokens))


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model: kinds of layers, each with how many there are of it."""

    name: str
    model_type: str
    hidden: int
    vocabulary: int
    context: int
    """Longest prompt and answer together, in tokens."""
    attention: tuple[tuple[Attention, int], ...]
    feed_forward: tuple[tuple[FeedForward, int], ...]
    embeddings: int
    """Parameters of the embedding and of the head, counted once where both are one."""
    native: str = "bf16"
    """Number format of the published weights: a name of `precision`, or a method that the planner does not know."""
    drafts: int = 0
    """Layers for multi-token prediction; they are not counted in the parameters."""
    source: str = ""

    @property
    def layers(self) -> int:
        """How many layers one after the other: what a pipeline divides."""
        return max(sum(n for _, n in self.attention), sum(n for _, n in self.feed_forward))

    @property
    def is_mixture(self) -> bool:
        """Whether it has routed experts."""
        return any(one.experts for one, _ in self.feed_forward)

    @property
    def parameters(self) -> int:
        """All of them, without layers for multi-token prediction, vision and biases."""
        return self.embeddings + self.attention_parameters + sum(one.parameters * n for one, n in self.feed_forward)

    @property
    def active(self) -> int:
        """Those that a token passes, with both embeddings."""
        return self.embeddings + self.attention_parameters + sum(one.active * n for one, n in self.feed_forward)

    @property
    def attention_parameters(self) -> int:
        """Those of the attention layers."""
        return sum(one.parameters * n for one, n in self.attention)

    @property
    def routed_parameters(self) -> int:
        """Those of the routed experts."""
        return sum(one.experts * one.expert * n for one, n in self.feed_forward)

    def cache_bytes(self, value_bytes: float = 2) -> float:
        """Bytes of KV cache for each token of a sequence, all layers together, on one GPU that holds all heads."""
        return sum(one.cache_bytes(value_bytes) * n for one, n in self.attention)

    def fixed_bytes(self, value_bytes: float = 2) -> float:
        """Bytes that each sequence has beside it: windows and states."""
        return sum(one.fixed_bytes(value_bytes) * n for one, n in self.attention)

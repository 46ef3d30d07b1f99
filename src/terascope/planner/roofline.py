"""How long a step takes: each part of each layer is as slow as the slower of its memory traffic and its arithmetic."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from terascope.planner.constants import Constants, constants
from terascope.planner.hardware import Cluster
from terascope.planner.layout import Layout
from terascope.planner.precision import WIDTHS, units
from terascope.planner.shapes import Architecture, Attention, FeedForward

_US = 1e-6
_SMALL = 2.0
"""Bytes of an activation."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one step computes on each group of `tp` GPUs: `tokens` new tokens that see `context` tokens each."""

    tokens: float
    context: float
    prompt: bool
    """Whether they are a prompt's, many after each other, or of as many sequences as there are `sequences`."""
    sequences: float = 0
    """Sequences that are decoded: fewer than tokens where drafts are verified, several for each."""


class Roofline:
    """The time of steps of one model in one layout on one cluster. Pure arithmetic; some microseconds a call."""

    def __init__(self, shapes: Architecture, cluster: Cluster, layout: Layout, values: Constants | None = None) -> None:
        self._shapes = shapes
        self._cluster = cluster
        self._gpu = cluster.gpu
        self._layout = layout
        self._is = values or constants()
        self._link, self._far = cluster.link(layout.tp)
        self._group_link, self._group_far = cluster.link(layout.group)
        self._nodes = max(1, -(-layout.group // cluster.domain))
        self._uneven = -(-shapes.layers // layout.pp) * layout.pp / shapes.layers  # all wait for the longest stage

    def decode(self, batch: float, context: float, drafts: int = 0) -> float:
        """Seconds for one new token of `batch` sequences in each group, `context` tokens long, through all layers.

        With `drafts`, each sequence has so many tokens more to be verified; what made them is a layer for each.
        """
        spent = self._step(Work(batch * (1 + drafts), context, prompt=False, sequences=batch))
        return spent * (1 + drafts / self._shapes.layers)

    def prompt(self, tokens: float, length: float) -> float:
        """Seconds for `tokens` tokens of prompts of `length` tokens in each group, computed at once."""
        return self._step(Work(tokens, length, prompt=True))

    def layer(self, work: Work) -> float:
        """Seconds of one layer, of the kind of which there are most, without network and without its part of a step."""
        one, _ = max(self._shapes.attention, key=lambda kind: kind[1])
        two, _ = max(self._shapes.feed_forward, key=lambda kind: kind[1])
        fixed = self._is.layer_us + self._more_us(one) + (self._is.mixture_us if two.experts else 0.0)
        reading = self._projections(one, work) + self._attend(one, work)
        dense = self._dense(two.dense + two.router, self._layout.weights.dense, work)
        return reading + dense + self._experts(two, work) + fixed * _US

    def parts(self, work: Work) -> Mapping[str, float]:
        """The seconds of a step by what they are spent on."""
        shapes, found = self._shapes, dict.fromkeys(("attention", "cache", "dense", "experts", "network", "fixed"), 0.0)
        for one, n in shapes.attention:
            found["attention"] += n * self._projections(one, work)
            found["cache"] += n * self._attend(one, work)
        for two, n in shapes.feed_forward:
            found["dense"] += n * self._dense(two.dense + two.router, self._layout.weights.dense, work)
            found["experts"] += n * self._experts(two, work)
            found["network"] += n * self._exchange(two, work)
        found["dense"] += self._head(work)
        if self._group_far:  # two halves of a batch take turns: one computes while the other's tokens travel
            computing = sum(found[name] for name in ("attention", "cache", "dense", "experts"))
            found["network"] -= self._is.overlap * min(computing, found["network"])
        found["network"] += self._reductions(work) + self._hops(work)
        found["fixed"] = self._fixed(work)
        return found

    def _step(self, work: Work) -> float:
        return sum(self.parts(work).values()) * self._uneven

    def _projections(self, one: Attention, work: Work) -> float:
        return self._product(one.parameters / self._layout.tp, self._layout.weights.attention, work.tokens, work.prompt)

    def _dense(self, parameters: float, number_format: str, work: Work) -> float:
        if not parameters:
            return 0.0
        return self._product(parameters / self._layout.tp, number_format, work.tokens, work.prompt)

    def _product(self, parameters: float, number_format: str, tokens: float, prompt: bool) -> float:
        """A matrix product of weights that every token passes."""
        gpu, its = self._gpu, self._is
        read = parameters * WIDTHS[number_format] / (gpu.bandwidth * its.stream * self._unpacking(number_format))
        compute = 2 * parameters * tokens / (gpu.peaks[gpu.unit(units(number_format))] * its.multiply)
        moved = self._traffic(tokens, self._shapes.hidden * 4) if prompt else 0.0
        return max(read, compute) + moved

    def _unpacking(self, number_format: str) -> float:
        """Less of the bandwidth is had where the GPU has no unit for the format."""
        return 1.0 if number_format == "bf16" or self._gpu.unit(units(number_format)) != "bf16" else self._is.unpack

    def _traffic(self, tokens: float, values: float) -> float:
        """Activations that go to memory and come back."""
        return self._is.traffic * tokens * values * _SMALL / (self._gpu.bandwidth * self._is.stream)

    def _attend(self, one: Attention, work: Work) -> float:
        gpu, its, share = self._gpu, self._is, self._layout.tp
        peak = gpu.peaks[gpu.unit((self._layout.cache, "bf16"))]
        if work.prompt:
            seen = min(work.context / 2, one.window or math.inf, one.chosen or math.inf)
            pairs = one.pair_flops * seen + one.index_flops * work.context / 2 + one.token_flops
            return work.tokens * pairs / share / (peak * its.attend)
        return max(self._read_cache(one, work), self._decode_flops(one, work) / share / (peak * its.attend_decode))

    def _read_cache(self, one: Attention, work: Work) -> float:
        layout = self._layout
        shards = min(layout.tp, one.cache_heads) * (layout.cp if one.cache_values else 1)
        values = one.read(work.context) * one.cache_values * layout.cache_width
        index = work.context * one.index_bytes
        states = 2 * one.state_bytes / min(layout.tp, one.heads)  # read and written
        moved = work.sequences * ((values + index) / shards + states)
        return moved / (self._gpu.bandwidth * self._is.stream_cache)

    def _decode_flops(self, one: Attention, work: Work) -> float:
        pairs = one.read(work.context) * one.decode_flops + work.context * one.index_flops + one.token_flops
        return work.tokens * pairs

    def _experts(self, one: FeedForward, work: Work) -> float:
        if not one.experts:
            return 0.0
        layout, gpu, its = self._layout, self._gpu, self._is
        name = layout.weights.experts
        everyone = work.tokens * layout.dp
        uneven = (its.imbalance_prompt if work.prompt else its.imbalance) if layout.ep > 1 else 1.0
        here = one.expert / layout.expert_tp
        hit = min(one.experts / layout.ep, one.hit(everyone) / layout.ep * uneven)
        load = everyone * one.chosen / layout.ep * uneven
        read = hit * here * WIDTHS[name] / (gpu.bandwidth * its.stream_experts * self._unpacking(name))
        compute = 2 * (load + hit * its.pad) * here / (gpu.peaks[gpu.unit(units(name))] * its.multiply_experts)
        moved = self._traffic(load, 2 * one.width + 2 * one.inner / layout.expert_tp) if work.prompt else 0.0
        return max(read, compute) + moved

    def _head(self, work: Work) -> float:
        """Logits: of every sequence, for a prompt of its last token only."""
        sequences = work.tokens / max(1.0, work.context) if work.prompt else work.tokens
        return self._dense(self._shapes.hidden * self._shapes.vocabulary, "bf16", Work(sequences, 0, prompt=False))

    def _reductions(self, work: Work) -> float:
        """All-reduces of tensor parallelism; where experts are exchanged, the one after them is not needed."""
        layout, its, group = self._layout, self._is, self._layout.tp
        if group == 1:
            return 0.0
        attention = sum(n for _, n in self._shapes.attention)
        exchanged = sum(n for one, n in self._shapes.feed_forward if one.experts and layout.dp > 1)
        divided = attention if layout.cp > 1 and not work.prompt else 0  # queries and partial results are gathered
        count = attention + sum(n for _, n in self._shapes.feed_forward) - exchanged + divided
        start = its.reduce_us * _US * (1 + 0.15 * math.log2(group)) * (4 if self._far else 1)
        moved = 2 * (group - 1) / group * work.tokens * self._shapes.hidden * _SMALL / (self._link * its.reduce)
        return count * (start + moved)

    def _exchange(self, one: FeedForward, work: Work) -> float:
        """Tokens to the GPUs of their experts and back."""
        if not one.experts or self._layout.dp == 1:
            return 0.0
        if self._group_far:
            return self._over_network(one, work)
        its, group = self._is, self._layout.group
        copies = work.tokens / self._layout.tp * one.chosen * (1 - 1 / group)
        start = its.exchange_us
        return 2 * start * _US + copies * self._sent(one) / (self._group_link * its.exchange)

    def _over_network(self, one: FeedForward, work: Work) -> float:
        its, nodes = self._is, self._nodes
        reached = one.chosen * (1 - 1 / nodes)
        if work.prompt:  # a node gets a token once, however many of its experts it is for
            reached = nodes * (1 - (1 - 1 / nodes) ** min(one.chosen, one.groups or one.chosen)) * (1 - 1 / nodes)
        copies = work.tokens / self._layout.tp * reached
        return 2 * its.network_us * _US + copies * self._sent(one) / (self._gpu.nic * its.network)

    def _sent(self, one: FeedForward) -> float:
        """Bytes of a token to one expert and back: there in a byte a value where experts compute so, back in bf16."""
        there = 1.0 if self._gpu.unit(units(self._layout.weights.experts)) != "bf16" else _SMALL
        return one.width * (there + _SMALL)

    def _hops(self, work: Work) -> float:
        """From stage to stage of a pipeline."""
        between = self._layout.pp - 1
        if not between:
            return 0.0
        rate, far = self._cluster.link(self._layout.gpus)
        start = self._is.reduce_us * _US * (4 if far else 1)
        return between * (start + work.tokens * self._shapes.hidden * _SMALL / (rate * self._is.reduce))

    def _fixed(self, work: Work) -> float:
        its, mixtures = self._is, sum(n for one, n in self._shapes.feed_forward if one.experts)
        more = sum(n * self._more_us(one) for one, n in self._shapes.attention)
        layer, step = (its.prompt_layer_us, its.prompt_step_us) if work.prompt else (its.layer_us, its.step_us)
        return _US * (layer * self._shapes.layers + its.mixture_us * mixtures + more + step)

    def _more_us(self, one: Attention) -> float:
        if one.kind in ("linear", "mamba"):
            return self._is.linear_us
        return self._is.index_us if one.index_flops or one.chosen else 0.0

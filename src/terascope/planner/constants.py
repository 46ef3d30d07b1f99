"""The constants of the model of time: one set for every model, GPU and engine."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache

from terascope.planner.library import load_data


@dataclass(frozen=True, slots=True)
class Constants:
    """How much of what a data sheet promises is had, and what each step costs besides. Fractions, and microseconds."""

    stream: float
    """Part of the memory bandwidth with which weights of attention and dense layers are read."""
    stream_experts: float
    """The same for experts, which are many and small."""
    unpack: float
    """The same where weights are unpacked to bf16 before they are multiplied, as a part of the part."""
    stream_cache: float
    """The same for the KV cache."""
    multiply: float
    """Part of a unit's peak in large matrix products."""
    multiply_experts: float
    """The same where tokens are grouped by experts."""
    pad: float
    """Rows that a product with an expert's weights costs more than there are tokens: tiles that are not full."""
    attend: float
    """Part of the bf16 peak in attention over a prompt."""
    attend_decode: float
    """The same for new tokens against the cache."""
    traffic: float
    """Times that activations go to memory and back around each product."""
    layer_us: float
    """For each layer in a step: launches, norms, rotary positions, small kernels."""
    mixture_us: float
    """More for a layer with experts: routing, sorting."""
    linear_us: float
    """More for a layer of linear attention: convolution, gates, update of the state."""
    index_us: float
    """More for a layer that searches its cache with an index: scores and the choice of the best."""
    step_us: float
    """For each step: scheduling, sampling, detokenizing."""
    prompt_layer_us: float
    """For each layer while a prompt is computed."""
    prompt_step_us: float
    """For each such step."""
    reduce_us: float
    """An all-reduce between two GPUs of a node."""
    reduce: float
    """Part of the link's rate in an all-reduce."""
    exchange_us: float
    """An all-to-all within reach of the links."""
    exchange: float
    """Part of the link's rate in an all-to-all."""
    network_us: float
    """An all-to-all over the network."""
    network: float
    """Part of the network's rate in it."""
    overlap: float
    """Part of an all-to-all over the network that is hidden behind computing."""
    imbalance: float
    """Load of the busiest GPU over the mean, when experts are divided, in decoding."""
    imbalance_prompt: float
    """The same for prompts."""
    interference: float
    """Part of the time of prompts by which decoding on the same GPUs is delayed."""


@dataclass(frozen=True, slots=True)
class Band:
    """Measured over predicted on rows that were held out: the tenth and the ninetieth of a hundred."""

    low: float
    high: float

    def around(self, value: float) -> tuple[float, float]:
        """The band around a prediction."""
        return value * self.low, value * self.high


@cache
def constants() -> Constants:
    """The constants that ship with the planner; `data/constants.yaml` says where they are from."""
    values: Mapping[str, float] = load_data("constants.yaml")["constants"]
    return Constants(**{one.name: float(values[one.name]) for one in fields(Constants)})


@cache
def left_out() -> Mapping[str, Mapping[str, float]]:
    """The median errors of the time between tokens on measurements kept apart, by GPU and by family of models."""
    found: Mapping[str, Mapping[str, float]] = load_data("constants.yaml")["left_out"]
    return found


@cache
def band(name: str) -> Band:
    """The band of `itl`, `ttft` or `throughput`."""
    low, high = load_data("constants.yaml")["bands"][name]
    return Band(float(low), float(high))

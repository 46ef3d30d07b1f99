"""What calibration times: one case is one kind of work at one shape, with the bytes and operations that it needs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from terascope.engines.torch.stopwatch import Work

FRESH = 256 * 2**20
"""Bytes of copies that work takes turns with, so that no cache of a GPU holds what it read last."""


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of work at one shape."""

    part: str
    name: str
    number_format: str
    read: float
    """Bytes that have to be read from memory: weights, or the KV cache."""
    operations: float
    build: Callable[[], Work]
    """Makes the data on the device, and the work. Raises what torch raises where the device cannot do it."""
    shape: Mapping[str, int] = field(default_factory=dict)
    copies: int = 1


@dataclass(frozen=True, slots=True)
class Shapes:
    """The widths of a model with latent attention and experts."""

    name: str
    hidden: int
    heads: int
    q_lora: int
    kv_lora: int
    nope: int
    rope: int
    value: int
    inner: int
    experts: int
    chosen: int
    expert_inner: int
    vocabulary: int


KIMI_K2 = Shapes("kimi-k2", 7168, 64, 1536, 512, 128, 64, 128, 18432, 384, 8, 2048, 163840)
"""moonshotai/Kimi-K2-Instruct, config.json."""
DEEPSEEK_V3 = Shapes("deepseek-v3", 7168, 128, 1536, 512, 128, 64, 128, 18432, 256, 8, 2048, 129280)
"""deepseek-ai/DeepSeek-V3, config.json."""
SMALL = Shapes("small", 64, 4, 32, 32, 16, 16, 16, 128, 16, 2, 32, 256)
"""A model that any machine has room for: it shows that everything runs, not how fast."""


class Maker:
    """Makes tensors on one device: random, since zeros draw less power and then run faster than real weights."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def normal(self, *shape: int) -> torch.Tensor:
        """Random bf16."""
        return torch.empty(shape, device=self.device, dtype=torch.bfloat16).normal_(std=0.02)

    def fp8(self, *shape: int) -> torch.Tensor:
        """Random e4m3, every positive value as likely as any other."""
        raw = torch.empty(shape, device=self.device, dtype=torch.uint8).random_(0, 127)
        return raw.view(torch.float8_e4m3fn)

    def ones(self, *shape: int) -> torch.Tensor:
        """Scales, float32."""
        return torch.ones(shape, device=self.device)

    def weights(self, number_format: str, *shape: int) -> torch.Tensor:
        """Random weights in `bf16` or `fp8`."""
        return self.fp8(*shape) if number_format == "fp8" else self.normal(*shape)


class Shelf:
    """Keeps the data of the last key, so that cases after each other share what takes long to make."""

    def __init__(self) -> None:
        self._key: object = None
        self._kept: list[torch.Tensor] = []

    def get(self, key: object, make: Callable[[], list[torch.Tensor]]) -> list[torch.Tensor]:
        """Return what `make` made for `key`; what was kept for another key is given up first."""
        if key != self._key:
            self._kept, self._key = [], None
            self._kept, self._key = make(), key
        return self._kept


def copies_of(size: float, device: torch.device) -> int:
    """How many copies of `size` bytes are more than a GPU's caches hold; one on a CPU."""
    return 1 if device.type == "cpu" else max(1, min(64, round(FRESH / size + 0.5)))

"""A causal model that computes parts of many rows in one forward pass, and the proof that it does so rightly."""

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from terascope.core.errors import ConfigError
from terascope.engines.torch.attention import NAME, Layout, PackedAttention, Span
from terascope.engines.torch.cache import BLOCK, BlockPool, blocks_for

_CHECK_LENGTHS = (12, 8)
_CHECK_STEPS = (((0, 0, 5), (1, 0, 7)), ((0, 5, 6), (1, 7, 1)), ((0, 11, 1),))  # (row, start, count) of each step
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
_HALF_TOLERANCE = 0.3


class PackedModel:
    """Runs a transformers causal model over packed rows; for one thread at a time."""

    def __init__(self, module: PreTrainedModel, cache_tokens: int) -> None:
        """Take over `module`'s attention, with a KV cache for `cache_tokens` tokens."""
        self.module = module
        self.device: torch.device = module.device
        self.pool = BlockPool(cache_tokens)
        self._attention = PackedAttention(self.pool.blocks)
        self._keeps = "logits_to_keep" in inspect.signature(module.forward).parameters

    @property
    def cache_tokens(self) -> int:
        """Tokens that the KV cache holds."""
        return self.pool.blocks * BLOCK

    @torch.inference_mode()
    def run(self, tokens: Sequence[int], spans: Sequence[Span], keep: Sequence[int]) -> Tensor:
        """Compute `tokens`, those of `spans` one after the other, and keep their keys and values.

        Returns the logits [len(keep), vocabulary] after the tokens at the places `keep`.
        """
        layout = Layout(spans, self.device)
        index = torch.tensor(list(keep), dtype=torch.long, device=self.device)
        inputs = torch.tensor(list(tokens), device=self.device)[None]
        extra = {"logits_to_keep": index} if self._keeps else {}
        with self._attention.at(layout):
            result = self.module(input_ids=inputs, position_ids=layout.positions[None], use_cache=False, **extra)
        logits: Tensor = result.logits[0]
        return logits if self._keeps else logits[index]

    @torch.inference_mode()
    def clear(self, blocks: Sequence[int]) -> None:
        """Zero what is kept in `blocks`."""
        self._attention.clear(blocks)

    def bytes_per_token(self) -> int:
        """What the KV cache takes for one token, as far as the layers have been used."""
        return self._attention.bytes_per_token()


def check(module: PreTrainedModel) -> int:
    """See that `module` computes the same packed as it does plainly; return its KV cache's bytes per token.

    Raises `ConfigError` when it does not: then its attention cannot be replaced, and the engine cannot serve it.
    """
    size = module.get_input_embeddings().weight.shape[0]
    rows = [[(7 * row + 13 * i + 1) % size for i in range(length)] for row, length in enumerate(_CHECK_LENGTHS)]
    module.set_attn_implementation("eager" if not module._supports_sdpa else "sdpa")  # noqa: SLF001 - no public name
    expected = [_plain(module, row) for row in rows]
    packed = PackedModel(module, len(rows) * BLOCK)
    module.set_attn_implementation(NAME)
    found = _in_steps(packed, rows)
    if not packed.bytes_per_token():
        raise ConfigError(f"{type(module).__name__} does not let its attention be chosen; the torch engine needs that")
    tolerance = _TOLERANCE.get(module.dtype, _HALF_TOLERANCE)
    for right, ours in zip(expected, found, strict=True):
        error = float((ours - right).norm() / (right - right.mean()).norm().clamp_min(1e-6))
        if not error < tolerance and right.isfinite().all():
            raise ConfigError(
                f"{type(module).__name__} computes something else when rows are packed (relative error {error:.2g}); "
                "the torch engine cannot serve it"
            )
    return packed.bytes_per_token()


@torch.inference_mode()
def _plain(module: PreTrainedModel, row: list[int]) -> Tensor:
    logits: Tensor = module(input_ids=torch.tensor([row], device=module.device), use_cache=False).logits[0]
    return logits.float()


def _in_steps(packed: PackedModel, rows: list[list[int]]) -> list[Tensor]:
    blocks = [packed.pool.take(blocks_for(len(row))) for row in rows]
    parts: list[list[Tensor]] = [[] for _ in rows]
    for step in _CHECK_STEPS:
        spans = [Span(start, count, blocks[row]) for row, start, count in step]
        tokens = [token for row, start, count in step for token in rows[row][start : start + count]]
        logits = packed.run(tokens, spans, range(len(tokens))).float()
        for (row, _, _), part in zip(step, torch.split(logits, [span.count for span in spans]), strict=True):
            parts[row].append(part)
    return [torch.cat(part) for part in parts]

"""A causal model that computes parts of many rows in one forward pass, and the proof that it does so rightly."""

import inspect
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from transformers import PreTrainedModel

from terascope.core.errors import ConfigError
from terascope.engines.torch import flash, linear
from terascope.engines.torch.attachment import VECTOR, Attachment, Insert, Part
from terascope.engines.torch.attention import NAME, PackedAttention
from terascope.engines.torch.cache import BLOCK, BlockPool, blocks_for
from terascope.engines.torch.graphs import Shapes
from terascope.engines.torch.layout import Layout, Span, lay_out
from terascope.engines.torch.lora.terms import Adapted, Terms
from terascope.engines.torch.sites import SiteMap, find_sites
from terascope.engines.torch.taps import Listening, Taps
from terascope.internals.sites import Place

_log = logging.getLogger(__name__)
_CHECK_LENGTHS = (12, 8)
_CHECK_STEPS = (((0, 0, 5), (1, 0, 7)), ((0, 5, 6), (1, 7, 1)), ((0, 11, 1),))  # (row, start, count) of each step
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
_HALF_TOLERANCE = 0.3
_TRIED = 5  # tokens of the pass in which the sites are found
_FIXED = 8  # rows in a batch of fixed shape


@dataclass(frozen=True, slots=True)
class Step:
    """What is computed at once: `tokens`, those of `spans` one after the other.

    `keep` are the places in the batch whose logits are wanted. `inserts` replace the embeddings of tokens, by place;
    `attached` are what single rows want seen or changed, `adapted` the rows that have an adapter. A step of fixed
    shape has `rows` tokens whatever it holds, and every row attends by itself, so that no bit of a row's result depends
    on its neighbours.
    """

    tokens: Sequence[int]
    spans: Sequence[Span]
    keep: Sequence[int]
    inserts: Sequence[Insert] = ()
    attached: Sequence[tuple[Attachment, Part]] = ()
    rows: int = 0
    adapted: Sequence[Adapted] = ()

    @property
    def simple(self) -> bool:
        """True when every row brings one token and nothing else."""
        brought = self.rows or self.inserts or self.attached or self.adapted
        return not brought and len(self.tokens) == len(self.spans)


class PackedModel:
    """Runs a transformers causal model over packed rows; for one thread at a time."""

    def __init__(self, module: PreTrainedModel, cache_tokens: int) -> None:
        """Take over `module`'s attention, with a KV cache for `cache_tokens` tokens."""
        self.module = module
        self.device: torch.device = module.device
        self.pool = BlockPool(cache_tokens)
        self._attention = PackedAttention(self.pool.blocks)
        self._keeps = "logits_to_keep" in inspect.signature(module.forward).parameters
        self._taps: Taps | None = None
        self._terms = Terms(module, module.device)
        self._spare = self.pool.blocks + 1
        self._together = flash.available(self.device, module.dtype)
        self._shapes = Shapes(self._of_singles, self.device, self._spare) if self.device.type == "cuda" else None
        self.fixed_rows = 1
        """Rows that a step of fixed shape may have; see `find_fixed_rows`."""

    @cached_property
    def sites(self) -> SiteMap:
        """The model's sites; found by computing a few tokens when this is first asked for."""
        return find_sites(self.module, self._try_out)

    @property
    def taps(self) -> Taps:
        """What attachments see and change by site. Not to be asked for first in the middle of a step."""
        if self._taps is None:
            self._taps = self.sites.taps()
        return self._taps

    @property
    def cache_tokens(self) -> int:
        """Tokens that the KV cache holds."""
        return self.pool.blocks * BLOCK

    @torch.inference_mode()
    def run(self, step: Step, between: Callable[[float], None] | None = None) -> Tensor:
        """Compute `step`, and keep its tokens' keys and values; return the logits [len(keep), vocabulary].

        `between` is called in every layer, except where a step is replayed, with the part that is done, 0 to 1. What
        it raises ends the step; the places of the step's tokens then hold anything.
        """
        if self._shapes is not None and step.simple:
            found = self._shapes.run(step.tokens, step.spans)
            return found if len(step.keep) == len(found) else found[list(step.keep)]
        padding = max(0, step.rows - len(step.tokens))
        apart = step.rows > 0
        layout = lay_out(
            step.spans, self.device, spare=self._spare, padding=padding, apart=apart, together=self._together
        )
        inputs = self._inputs(torch.tensor([[*step.tokens, *[0] * padding]], device=self.device), step.inserts)
        keep = torch.tensor(list(step.keep), dtype=torch.long, device=self.device)
        with ExitStack() as stack:
            if step.adapted:
                stack.enter_context(self._terms.at(step.adapted, len(step.tokens) + padding, apart=apart))
            for attachment, part in step.attached:
                stack.enter_context(attachment.attach(self.module, part))
            taps = self._taps if step.attached else None
            logits = self._forward(inputs, layout, keep, between, taps)
            return logits if taps is None else taps.through(Place.LOGITS, None, logits)

    def _try_out(self, taps: Listening) -> None:
        """Compute a few tokens, of which nothing is kept."""
        blocks = self.pool.take(1)
        layout = lay_out([Span(0, _TRIED, blocks)], self.device, spare=self._spare)
        tokens = torch.arange(1, _TRIED + 1, device=self.device)[None]
        self._forward({"input_ids": tokens}, layout, torch.arange(_TRIED, device=self.device), None, taps)
        self._attention.clear(blocks)
        self.pool.give_back(blocks)

    def _of_singles(self, tokens: Tensor, layout: Layout) -> Tensor:
        return self._forward({"input_ids": tokens}, layout, layout.singles[0].index)

    def _forward(
        self,
        inputs: dict[str, Tensor],
        layout: Layout,
        keep: Tensor,
        between: Callable[[float], None] | None = None,
        taps: Listening | None = None,
    ) -> Tensor:
        extra = {"logits_to_keep": keep} if self._keeps else {}
        with self._attention.at(layout, between, taps):
            result = self.module(**inputs, position_ids=layout.positions[None], use_cache=False, **extra)
        logits: Tensor = result.logits[0]
        return logits if self._keeps else logits[keep]

    def _inputs(self, tokens: Tensor, inserts: Sequence[Insert]) -> dict[str, Tensor]:
        if not inserts:
            return {"input_ids": tokens}
        vectors = self.module.get_input_embeddings()(tokens.clamp_min(0))
        for insert in inserts:
            vectors[0, insert.place : insert.place + len(insert.vectors)] = insert.vectors
        return {"inputs_embeds": vectors}

    @torch.inference_mode()
    def clear(self, blocks: list[int]) -> None:
        """Zero what is kept in `blocks`."""
        self._attention.clear(blocks)

    def bytes_per_token(self) -> int:
        """What the KV cache takes for one token, as far as the layers have been used."""
        return self._attention.bytes_per_token()

    def find_fixed_rows(self) -> int:
        """Set `fixed_rows`: several if a row's bits are the same in every slot and beside any neighbours, else 1.

        Models whose experts work on as many tokens as chose them, for example, need a step of their own per row.
        """
        size = self.module.get_input_embeddings().weight.shape[0]
        most = self.fixed_rows = min(_FIXED, self.pool.blocks)  # each needs a block
        row, *others = [[(11 * row + 17 * i + 3) % size for i in range(3)] for row in range(most)]
        alone = self._slot(row, [], 0)
        among = ((others[:1], min(1, most - 1)), (others, 0), (others, most - 1))
        if not all(alone.equal(self._slot(row, beside, slot)) for beside, slot in among):
            self.fixed_rows = 1
        return self.fixed_rows

    @torch.inference_mode()
    def takes_vectors(self) -> bool:
        """Return whether a row's embeddings, given as vectors, are computed as its tokens are."""
        table = self.module.get_input_embeddings()
        tokens = [(11 * i + 3) % table.weight.shape[0] for i in range(_TRIED)]
        blocks = self.pool.take(1)
        span = [Span(0, _TRIED, blocks)]
        insert = Insert(0, table(torch.tensor(tokens, device=self.device)))
        try:
            right = self.run(Step(tokens, span, range(_TRIED))).float()
            ours = self.run(Step([VECTOR] * _TRIED, span, range(_TRIED), [insert])).float()
        except Exception as error:  # noqa: BLE001 - whatever the model does not take, it can still be served
            _log.warning("the model takes no vectors in place of tokens", extra={"reason": repr(error)[:300]})
            return False
        finally:
            self.pool.give_back(blocks)
        return bool((ours - right).norm() < _TOLERANCE.get(self.module.dtype, _HALF_TOLERANCE) * right.norm())

    def _slot(self, row: list[int], others: list[list[int]], slot: int) -> Tensor:
        """The logits of `row` after its tokens, one a step, in `slot` among `others`."""
        rows = [*others[:slot], row, *others[slot:]]
        blocks = [self.pool.take(1) for _ in rows]
        for at in range(len(row)):
            spans = [Span(at, 1, own) for own in blocks]
            found = self.run(Step([one[at] for one in rows], spans, range(len(rows)), rows=self.fixed_rows))
        for own in blocks:
            self.pool.give_back(own)
        return found[slot]


def prepare(module: PreTrainedModel) -> int:
    """Make `module` fast and its attention ours; see that it computes the same; return its cache's bytes per token.

    Raises `ConfigError` when it does not: then its attention cannot be replaced, and the engine cannot serve it.
    """
    size = module.get_input_embeddings().weight.shape[0]
    rows = [[(7 * row + 13 * i + 1) % size for i in range(length)] for row, length in enumerate(_CHECK_LENGTHS)]
    module.set_attn_implementation("eager" if not module._supports_sdpa else "sdpa")  # noqa: SLF001 - no public name
    expected = [_plain(module, row) for row in rows]
    if linear.packable(module.dtype, module.device):
        linear.pack(module, lambda: _plain(module, rows[0]))
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
        logits = packed.run(Step(tokens, spans, range(len(tokens)))).float()
        for (row, _, _), part in zip(step, torch.split(logits, [span.count for span in spans]), strict=True):
            parts[row].append(part)
    return [torch.cat(part) for part in parts]

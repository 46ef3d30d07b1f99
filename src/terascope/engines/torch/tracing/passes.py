"""A plain forward pass over whole rows: no cache, no parts, and a way back where gradients are wanted.

Rows stand one after the other, each sees only itself, and the taps of each see only its own.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from terascope.engines.torch.attachment import Part
from terascope.engines.torch.attention import Attend, layer_index, tapped, using
from terascope.engines.torch.encoder import Encoder
from terascope.engines.torch.layout import Several
from terascope.engines.torch.packed import PackedModel
from terascope.engines.torch.sites import SiteMap
from terascope.engines.torch.taps import Listening, Taps
from terascope.engines.torch.text_attention import Texts
from terascope.internals.sites import Place


class Traced(Protocol):
    """What is done to one row in a pass."""

    def attach(self, part: Part) -> Any:
        """Return a context that holds while the pass is computed."""
        ...


@dataclass(frozen=True, slots=True)
class PlainRow:
    """A row of a pass: its tokens, and the positions whose logits are wanted, ascending."""

    tokens: Sequence[int]
    keep: Sequence[int]
    traced: Traced


class Passes(Protocol):
    """A model that computes whole rows. For one thread."""

    @property
    def taps(self) -> Taps:
        """What rows listen to."""
        ...

    @property
    def sites(self) -> SiteMap:
        """Its sites."""
        ...

    def run(self, rows: Sequence[PlainRow]) -> list[Tensor]:
        """Compute `rows` at once; return the logits of each, [len(keep), vocabulary], with a way back if asked for.

        Whether gradients are computed is torch's setting. Encoders return empty logits.
        """
        ...


class DecoderPasses:
    """Plain passes of a language model that runs packed otherwise. See `Passes`."""

    def __init__(self, packed: PackedModel) -> None:
        self._packed = packed
        self.taps = packed.taps
        self.sites = packed.sites
        self._keeps = "logits_to_keep" in inspect.signature(packed.module.forward).parameters

    def run(self, rows: Sequence[PlainRow]) -> list[Tensor]:
        """See `Passes.run`."""
        device = self._packed.device
        parts = _parts(rows)
        ids = torch.tensor([[token for row in rows for token in row.tokens]], device=device)
        positions = torch.cat([torch.arange(len(row.tokens), device=device) for row in rows])[None]
        kept = [part.first + at for row, part in zip(rows, parts, strict=True) for at in row.keep]
        keep = torch.tensor(kept, dtype=torch.long, device=device)
        extra = {"logits_to_keep": keep} if self._keeps else {}
        with _attached(rows, parts), using(RowsAttention(parts, self.taps, causal=True)):
            found = self._packed.module(input_ids=ids, position_ids=positions, use_cache=False, **extra).logits[0]
            logits = self.taps.through(Place.LOGITS, None, found if self._keeps else found[keep])
        return list(torch.split(logits, [len(row.keep) for row in rows]))


class EncoderPasses:
    """Plain passes of an embedding model whose texts are packed. See `Passes`."""

    def __init__(self, encoder: Encoder, sites: SiteMap) -> None:
        self._encoder = encoder
        self.sites = sites
        self.taps = sites.taps()

    def run(self, rows: Sequence[PlainRow]) -> list[Tensor]:
        """See `Passes.run`."""
        ordered = sorted(rows, key=lambda row: len(row.tokens))
        parts = _parts(ordered)
        device = self._encoder.module.device
        texts = Texts([len(row.tokens) for row in ordered], device)
        ids = torch.tensor([token for row in ordered for token in row.tokens], device=device)
        texts.attend = RowsAttention(parts, self.taps, causal=False)
        with _attached(ordered, parts):
            self._encoder.batching.states(ids, texts)
        return [torch.zeros(0, 0) for _ in rows]


class RowsAttention:
    """Attention over rows that stand one after the other, each computed by itself. What transformers calls."""

    def __init__(self, parts: Sequence[Part], taps: Listening, *, causal: bool) -> None:
        self._rows = [Several(part.first, part.last, 0, None) for part in parts]
        self._taps, self._causal = taps, causal

    def __call__(
        self,
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        s_aux: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """Attend; `query` [1, heads, tokens, size], result [1, tokens, heads, size]."""
        layer = layer_index(module)
        query, key, value = tapped(self._taps, layer, query, key, value)
        attend = Attend(query.shape[-1] ** -0.5 if scaling is None else scaling, softcap, s_aux)
        probabilities = {one.first: one.tap for one in self._taps.rows(Place.ATTENTION_PROBABILITIES, layer)}
        found = []
        for row in self._rows:
            part = slice(row.first, row.last)
            mask = self._mask(row, sliding_window or 0, query)
            q, k, v = query[:, :, part], key[:, :, part], value[:, :, part]
            found.append(attend.alone(q, k, v, mask, probabilities.get(row.first))[0].transpose(0, 1))
        return self._taps.through(Place.ATTENTION_HEADS, layer, torch.cat(found))[None], None

    def _mask(self, row: Several, window: int, like: Tensor) -> Tensor | None:
        if self._causal:
            return row.mask(window, like)
        at = torch.arange(row.last - row.first, device=like.device)
        hidden = (at[:, None] - at).abs() >= window if window else torch.zeros_like(at[:, None] - at, dtype=torch.bool)
        return like.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf)


def whole(tokens: int) -> Part:
    """The part of a row that is computed alone and at once."""
    return Part(0, tokens, 0)


def _parts(rows: Sequence[PlainRow]) -> list[Part]:
    found: list[Part] = []
    first = kept = 0
    for row in rows:
        last, logits = first + len(row.tokens), range(kept, kept + len(row.keep))
        found.append(Part(first, last, 0, row.tokens, logits, row.keep))
        first, kept = last, logits.stop
    return found


@contextmanager
def _attached(rows: Sequence[PlainRow], parts: Sequence[Part]) -> Iterator[None]:
    with ExitStack() as stack:
        for row, part in zip(rows, parts, strict=True):
            stack.enter_context(row.traced.attach(part))
        yield

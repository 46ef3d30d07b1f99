"""A row's hidden states, pooled while it is read in parts. An `Attachment`."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from terascope.engines.torch.attachment import Part
from terascope.engines.torch.packed import PackedModel
from terascope.engines.torch.pooling import EACH, Ask
from terascope.internals.sites import Place, Site


@dataclass(frozen=True, slots=True)
class _Way:
    """What is kept of states [tokens, width] and their ranks, from 1; how two parts join; what comes of it."""

    keep: Callable[[Tensor, Tensor], Tensor]
    join: Callable[[Tensor, Tensor], Tensor]
    end: Callable[[Tensor, int], Tensor] = lambda kept, _: kept


_WAYS: Mapping[str, _Way] = {
    "mean": _Way(lambda x, _: x.sum(0), torch.add, lambda kept, n: kept / n),
    "mean_sqrt_len_tokens": _Way(lambda x, _: x.sum(0), torch.add, lambda kept, n: kept / n**0.5),
    "weightedmean": _Way(
        lambda x, ranks: (x * ranks[:, None]).sum(0), torch.add, lambda kept, n: kept / (n * (n + 1) / 2)
    ),
    "max": _Way(lambda x, _: x.amax(0), torch.maximum),
    "cls": _Way(lambda x, _: x[0], lambda old, _: old),
    "lasttoken": _Way(lambda x, _: x[-1], lambda _, new: new),
    EACH: _Way(lambda x, _: x, lambda old, new: torch.cat([old, new])),
}


class Gatherer:
    """Pools the states of one row at one layer. A position counts once, also when the row is computed again."""

    def __init__(self, packed: PackedModel, ask: Ask) -> None:
        """`packed` must know its sites already when another layer than the last is asked for."""
        self._packed = packed
        self._ask = ask
        self._way = _WAYS[ask.pooling]
        self._seen = 0
        self._kept: Tensor | None = None

    def vector(self) -> Tensor:
        """Return the pooled states, float32 on the CPU, once the row has been computed."""
        if self._kept is None:
            raise RuntimeError("nothing has been computed of this row")
        return self._way.end(self._kept, self._seen).cpu()

    @contextmanager
    def attach(self, module: PreTrainedModel, part: Part) -> Iterator[None]:
        """See `Attachment.attach`."""

        def tap(states: Tensor) -> None:
            self._take(states, part.start)

        if self._ask.layer is not None:
            site = Site(Place.RESIDUAL_PRE, self._ask.layer)
            with self._packed.taps.open(site, part.first, part.last, tap):
                yield
            return

        def hook(_: torch.nn.Module, __: Any, output: Any) -> None:
            tap(output[0][0, part.first : part.last])

        handle = module.base_model.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    def _take(self, states: Tensor, start: int) -> None:
        new = states[self._seen - start :].float() if self._seen > start else states.float()
        if not len(new):
            return
        ranks = torch.arange(self._seen + 1, self._seen + len(new) + 1, device=new.device)
        kept = self._way.keep(new, ranks)
        self._kept = kept.clone() if self._kept is None else self._way.join(self._kept, kept)
        self._seen += len(new)

"""From the residual stream to the likeliest next tokens, for all rows and layers of a step in one multiplication."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from terascope.engines.torch.sites import SiteMap
from terascope.internals.sites import Place

_LOGITS_AT_ONCE = 1 << 24  # elements: what a lens over all tokens and layers needs must not grow with them
Found = Callable[[Tensor, Tensor], None]
"""Is given the log-probabilities and the numbers of the likeliest tokens, each [n, k], float32 and int64."""


class Unembedding:
    """The end of a model: the final norm, the head, and what the model does to its logits."""

    def __init__(self, module: PreTrainedModel, sites: SiteMap) -> None:
        config = module.config.get_text_config()
        self.size = sites.shape.vocabulary
        self.norm = sites.norm
        self._head: nn.Module | None = module.get_output_embeddings()
        self._cap: float | None = getattr(config, "final_logit_softcapping", None)
        self._factor = float(getattr(config, "logit_scale", None) or 1) / float(
            getattr(config, "logits_scaling", None) or 1
        )

    def logits(self, x: Tensor, *, normed: bool = False) -> Tensor:
        """Return the logits [n, vocabulary] of residual streams [n, width]; `normed` ones are past the norm."""
        if self._head is None:
            raise RuntimeError("this model has no unembedding")
        x = x if normed or self.norm is None else self.norm(x)
        found: Tensor = self._head(x) * self._factor
        return found if self._cap is None else self._cap * torch.tanh(found / self._cap)

    def directions(self, tokens: Sequence[int]) -> Tensor:
        """The rows of the head [len(tokens), width] that belong to `tokens`, times what logits are multiplied by."""
        if self._head is None:
            raise RuntimeError("this model has no unembedding")
        weight = self._head.weight
        return torch.as_tensor(weight)[list(tokens)] * self._factor


@dataclass(frozen=True, slots=True)
class _Asked:
    x: Tensor
    k: int
    normed: bool
    found: Found


class Lens:
    """Collects what wants to be read as tokens, and reads it all at once."""

    def __init__(self, unembedding: Unembedding, dtype: torch.dtype) -> None:
        self._unembedding = unembedding
        self._dtype = dtype
        self._asked: list[_Asked] = []

    def ask(self, x: Tensor, k: int, place: Place, found: Found) -> None:
        """Let `found` have the `k` likeliest tokens of `x` [n, width], which is at `place`, at the next `flush`."""
        self._asked.append(_Asked(x.to(self._dtype), k, place is Place.NORM, found))

    def drop(self) -> None:
        """Forget what was asked."""
        self._asked.clear()

    def flush(self) -> None:
        """Answer what was asked."""
        asked, self._asked = self._asked, []
        for normed in (False, True):
            some = [one for one in asked if one.normed is normed]
            if some:
                self._answer(some, normed=normed)

    def _answer(self, asked: list[_Asked], *, normed: bool) -> None:
        k = max(one.k for one in asked)
        values, tokens = [], []
        for part in self._parts(torch.cat([one.x for one in asked])):
            scores = self._unembedding.logits(part, normed=normed)
            scores = scores if scores.dtype == torch.float64 else scores.float()
            best = scores.topk(k, dim=-1)
            values.append(best.values - scores.logsumexp(-1, keepdim=True))
            tokens.append(best.indices)
        sizes = [len(one.x) for one in asked]
        answers = zip(torch.split(torch.cat(values), sizes), torch.split(torch.cat(tokens), sizes), strict=True)
        for one, (likely, which) in zip(asked, answers, strict=True):
            one.found(likely[:, : one.k], which[:, : one.k])

    def _parts(self, x: Tensor) -> tuple[Tensor, ...]:
        return torch.split(x, max(1, _LOGITS_AT_ONCE // max(1, self._unembedding.size)))

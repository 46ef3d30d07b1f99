"""What is differentiated: a number that is computed from one row."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from terascope.core.errors import BadRequest
from terascope.engines.torch.attachment import Part
from terascope.engines.torch.taps import Taps
from terascope.engines.torch.tracing.places import Chosen, select
from terascope.engines.torch.tracing.tensors import tensor_of, wide
from terascope.internals import plan
from terascope.internals.plan import Dot, Logit, LogProbability, Loss
from terascope.internals.sites import Place
from terascope.internals.tokens import Tokens, positions


class Scalar:
    """A number of one row; `keep` are the positions whose logits it needs, ascending."""

    def __init__(
        self,
        of: plan.Scalar,
        tokens: Sequence[int],
        pieces: Sequence[bytes],
        device: torch.device,
        number: Callable[[plan.Token], int],
    ) -> None:
        """`number` says which token a text is. Raises `BadRequest` for tokens that the row does not have."""
        self.of = of
        self._tokens, self._device = tokens, device
        self._chosen = Chosen(of.where, pieces) if isinstance(of, Dot) else None
        self._seen: Tensor | None = None
        self.keep = sorted(set(self._positions(pieces)))
        self._token = number(of.token) if isinstance(of, Logit | LogProbability) else 0
        self._minus = number(of.minus) if isinstance(of, Logit) and of.minus is not None else None
        if not self.keep and not isinstance(of, Dot):
            raise BadRequest("no token of this prompt has a loss: the first has none before it", param="gradient.of")

    @property
    def tokens(self) -> list[int]:
        """The token of a logit, and the one whose logit is taken off it, if any."""
        return [self._token] if self._minus is None else [self._token, self._minus]

    @contextmanager
    def attach(self, taps: Taps, part: Part) -> Iterator[None]:
        """Listen to what the scalar needs besides logits."""
        if not isinstance(self.of, Dot) or self._chosen is None:
            yield
            return
        where = self.of.where
        first, last, at = part.first, part.last, list(range(part.last - part.first))
        if where.site.place is Place.LOGITS:
            first, last, at = part.logits.start, part.logits.stop, list(part.logits_at)
        index = torch.tensor([at.index(one) for one in self._chosen.of_prompt], dtype=torch.long, device=self._device)

        def tap(x: Tensor) -> None:
            self._seen = select(x, where, index)

        with taps.open(where.site, first, last, tap):
            yield

    def value(self, logits: Tensor, kept: Sequence[int]) -> Tensor:
        """The number, after the pass that `logits` [kept, vocabulary] came from."""
        if isinstance(self.of, Dot):
            return self._dot(self.of)
        scores = wide(logits[[list(kept).index(at) for at in self.keep]])
        if isinstance(self.of, Logit):
            return scores[0, self._token] - (0 if self._minus is None else scores[0, self._minus])
        found = scores.log_softmax(-1)
        if isinstance(self.of, LogProbability):
            return found[0, self._token]
        following = torch.tensor([self._tokens[at + 1] for at in self.keep], device=found.device)
        return -found.gather(1, following[:, None]).mean()

    def _dot(self, of: Dot) -> Tensor:
        if self._seen is None:
            raise RuntimeError("the site of a dot product was not seen")
        seen, self._seen = wide(self._seen), None
        return (seen * tensor_of(of.direction, seen.device).to(seen.dtype)).sum()

    def _positions(self, pieces: Sequence[bytes]) -> list[int]:
        if isinstance(self.of, Logit | LogProbability):
            return _of(self.of.at, pieces)
        if isinstance(self.of, Loss):
            return [at - 1 for at in _of(self.of.tokens, pieces) if at > 0]
        return list(self._chosen.of_prompt) if self._chosen and self.of.where.site.place is Place.LOGITS else []


def _of(tokens: Tokens, pieces: Sequence[bytes]) -> list[int]:
    return list(positions(tokens, pieces))

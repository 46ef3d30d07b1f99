"""Choosing the next token of every row of a batch at once, each by its own rules.

The order of the rules is vLLM's: bias, penalties, what may not come (ends before `min_tokens`, what the grammar
forbids), temperature, min_p, top_k, top_p. The random numbers of a draw are a function of the row's seed, the choice's
number and the token's position alone, so that neighbours, preemption and replay on another replica change nothing.

A token is drawn by the Gumbel-max trick (Maddison, Tarlow, Minka, "A* Sampling", 2014): each token has a random number
of its own. A place in the cumulative distribution would need one number only, but there every boundary between two of
50,000 tokens is a place where the last bits of all tokens matter: in float32 1 of 400 drawn tokens turned with the
shape of the batch. Here only a near-tie of the best two can turn.
"""

import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from terascope.core.errors import EngineNan, ServiceError
from terascope.engines.torch.attachment import VECTOR
from terascope.engines.torch.grammar import Matcher

_GREEDY_BELOW = 1e-5
_LEAST_EXPONENTIAL = np.float32(1e-30)
_CANDIDATES = 1024  # tokens looked at by top_k, top_p and min_p before all are sorted


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one answer is sampled. `choice` is its number among the `n` answers to one prompt."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    choice: int = 0
    bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None

    @property
    def greedy(self) -> bool:
        """True when the likeliest token is taken."""
        return self.temperature < _GREEDY_BELOW or self.top_k == 1 or self.top_p == 0

    @property
    def restricted(self) -> bool:
        """True when not every token may be drawn."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """A token, its log-probability by the model itself (nothing applied), and the likeliest tokens with theirs."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Chooser:
    """What one row's sampling remembers from token to token."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int], ends: Sequence[int], matcher: Matcher | None) -> None:
        self.sampling = sampling
        self.matcher = matcher
        self.position = 0
        self._ends = list(ends)
        self._prompt = prompt
        self._counts: dict[int, int] = {}

    def exponentials(self, size: int) -> Tensor:
        """The row's random numbers [size] for its next token."""
        return exponentials(self.sampling.seed, self.sampling.choice, self.position, size)

    def took(self, token: int) -> None:
        """Note that `token` came next."""
        self.position += 1
        self._counts[token] = self._counts.get(token, 0) + 1
        if self.matcher is not None:
            self.matcher.consume(token)

    def adjusts(self, min_tokens: int) -> bool:
        """True when `adjust` would change anything."""
        s = self.sampling
        penalties = s.presence_penalty or s.frequency_penalty or s.repetition_penalty != 1
        return bool(s.bias or penalties or self.matcher is not None or self.position < min_tokens)

    def adjust(self, scores: Tensor, min_tokens: int) -> None:
        """Apply bias, penalties and prohibitions to `scores` [vocabulary], in place."""
        if self.sampling.bias:
            tokens, values = zip(*self.sampling.bias, strict=True)
            scores[list(tokens)] += torch.tensor(values, device=scores.device)
        self._penalize(scores)
        if self.position < min_tokens:
            scores[self._ends] = -math.inf
        if self.matcher is not None:
            self.matcher.forbid(scores)

    def _penalize(self, scores: Tensor) -> None:
        s = self.sampling
        known = {*self._prompt, *self._counts} - {VECTOR} if s.repetition_penalty != 1 else set()
        if known:
            seen = torch.tensor(list(known), device=scores.device)
            found = scores[seen]
            scores[seen] = torch.where(found > 0, found / s.repetition_penalty, found * s.repetition_penalty)
        if self._counts and (s.frequency_penalty or s.presence_penalty):
            tokens = torch.tensor(list(self._counts), device=scores.device)
            counts = torch.tensor(list(self._counts.values()), dtype=scores.dtype, device=scores.device)
            scores[tokens] -= s.frequency_penalty * counts + s.presence_penalty


@dataclass(slots=True)
class Draw:
    """One row's turn: who chooses, and the result: a token, or an error of this row alone."""

    chooser: Chooser
    min_tokens: int = 0
    info: TokenInfo = field(default_factory=lambda: TokenInfo(-1), init=False)
    error: ServiceError | None = field(default=None, init=False)


def exponentials(seed: int, choice: int, position: int, size: int) -> Tensor:
    """Return exponential numbers [size], float32, never 0, that depend on the arguments alone.

    Those of a smaller `size` are the first of a larger one. They are made by the counter-based generator Philox
    (Salmon et al., SC '11) on the CPU, so that every device gets the same.
    """
    data = struct.pack("<qqq", _signed(seed), choice, position)
    key = int.from_bytes(hashlib.blake2b(data, digest_size=16).digest(), "little")
    numbers = np.random.Generator(np.random.Philox(key=key)).standard_exponential(size, dtype=np.float32)
    return torch.from_numpy(np.maximum(numbers, _LEAST_EXPONENTIAL))


def sample(logits: Tensor, draws: Sequence[Draw]) -> None:
    """Choose a token for every draw from its row of `logits` [len(draws), vocabulary] and put it into the draw.

    Rows do not influence each other. The choosers are not told; that is the caller's part.
    """
    logits = logits.float()
    for draw, finite in zip(draws, logits.amax(-1).isfinite().tolist(), strict=True):
        if not finite:
            draw.error = not_a_number()
    scores = _adjusted(logits, draws)
    tokens = scores.argmax(-1)
    drawn = [i for i, draw in enumerate(draws) if not draw.chooser.sampling.greedy and draw.error is None]
    if drawn:
        chosen = scores if len(drawn) == len(draws) else scores[drawn]
        tokens[drawn] = _draw(chosen, [draws[i].chooser for i in drawn])
    _inform(logits, tokens, draws)


def not_a_number() -> EngineNan:
    """The error of a row whose logits are none."""
    return EngineNan("the model computed something that is not a number for this request")


def score(logits: Tensor, tokens: Sequence[int], top: int) -> list[TokenInfo]:
    """Return what the model thought of `tokens`; `logits` [len(tokens), vocabulary], `top` rivals each.

    A vector among them has no log-probability and no rivals.
    """
    logits = logits.float()
    norm = _logsumexp(logits)
    own = logits.gather(-1, torch.tensor(tokens, device=logits.device).clamp_min(0)[:, None]) - norm
    values, indices = logits.topk(min(top, logits.shape[-1]), dim=-1)
    rivals = zip(indices.tolist(), (values - norm).tolist(), strict=True)
    return [
        TokenInfo(token) if token == VECTOR else TokenInfo(token, value, tuple(zip(*rival, strict=True)))
        for token, (value,), rival in zip(tokens, own.tolist(), rivals, strict=True)
    ]


def _adjusted(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    changed = [i for i, draw in enumerate(draws) if draw.chooser.adjusts(draw.min_tokens) and draw.error is None]
    if not changed:
        return logits
    scores = logits.clone()
    for i in changed:
        try:
            draws[i].chooser.adjust(scores[i], draws[i].min_tokens)
        except ServiceError as error:
            draws[i].error = error
    return scores


def _draw(scores: Tensor, choosers: Sequence[Chooser]) -> Tensor:
    """Draw one token per row: the one with the greatest score less the logarithm of its exponential number."""
    device, size = scores.device, scores.shape[-1]
    heat = torch.tensor([chooser.sampling.temperature for chooser in choosers], device=device)
    scores = scores / heat[:, None]
    tight = [i for i, chooser in enumerate(choosers) if chooser.sampling.restricted]
    if tight:
        scores[tight] = _restricted(scores[tight], [choosers[i].sampling for i in tight], _CANDIDATES)
    races = torch.stack([chooser.exponentials(size) for chooser in choosers]).to(device)
    return (scores - races.log_()).argmax(-1)


def _restricted(scores: Tensor, rules: Sequence[Sampling], candidates: int) -> Tensor:
    """Return `scores` with minus infinity where min_p, top_k or top_p forbid a token."""
    size = scores.shape[-1]
    count = min(candidates, size)
    values, tokens = scores.topk(count, dim=-1)
    keep, complete = _kept(values, _logsumexp(scores), rules)
    kept = torch.full_like(scores, -math.inf).scatter_(-1, tokens, values.masked_fill(~keep, -math.inf))
    if count < size and not all(complete):
        rest = [i for i, done in enumerate(complete) if not done]
        kept[rest] = _restricted(scores[rest], [rules[i] for i in rest], size)
    return kept


def _kept(values: Tensor, norm: Tensor, rules: Sequence[Sampling]) -> tuple[Tensor, list[bool]]:
    """Which of the likeliest `values` [rows, candidates], best first, may come, and whether others might too."""
    column = values.new_tensor
    rank = torch.arange(values.shape[-1], device=values.device)
    most = torch.tensor([rule.top_k if rule.top_k > 0 else 2**31 for rule in rules], device=values.device)
    floor = column([math.log(rule.min_p) if rule.min_p > 0 else -math.inf for rule in rules])
    keep = (rank < most[:, None]) & (values >= values[:, :1] + floor[:, None])
    bounded = ~keep[:, -1]
    # top_p is a share of what min_p and top_k left; without them, of everything
    whole = torch.where(bounded, _logsumexp(values.masked_fill(~keep, -math.inf))[:, 0], norm[:, 0])
    shares = (values - whole[:, None]).exp().masked_fill(~keep, 0)
    before = shares.cumsum(-1) - shares
    limit = column([rule.top_p for rule in rules])
    keep &= (before < limit[:, None]) | (limit[:, None] >= 1)
    free = torch.tensor([rule.top_k == 0 and rule.min_p == 0 for rule in rules], device=values.device)
    return keep, (bounded | (free & ~keep[:, -1])).tolist()


def _inform(logits: Tensor, tokens: Tensor, draws: Sequence[Draw]) -> None:
    chosen = tokens.tolist()
    asked = [i for i, draw in enumerate(draws) if draw.chooser.sampling.logprobs is not None and draw.error is None]
    for draw, token in zip(draws, chosen, strict=True):
        draw.info = TokenInfo(token)
    if asked:
        tops = [draws[i].chooser.sampling.logprobs or 0 for i in asked]
        infos = score(logits[asked], [chosen[i] for i in asked], max(tops))
        for i, top, info in zip(asked, tops, infos, strict=True):
            draws[i].info = TokenInfo(info.token, info.logprob, info.top[:top])


def _logsumexp(scores: Tensor) -> Tensor:
    """Return [rows, 1]. A row alone has the same bits as among others: PyTorch sums one row in parts, one a thread."""
    rows = scores if scores.shape[0] > 1 else scores.expand(2, -1)
    return rows.logsumexp(-1, keepdim=True)[: scores.shape[0]]


def _signed(seed: int) -> int:
    return (seed + 2**63) % 2**64 - 2**63

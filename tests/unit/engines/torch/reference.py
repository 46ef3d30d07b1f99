"""Llama by hand, in float64, with every site in sight; and plans carried out on it in the plainest way."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from terascope.engines.torch.tracing.tensors import tensor_of
from terascope.engines.worker.text import TokenTable
from terascope.internals.plan import (
    AblateMean,
    AblateZero,
    Add,
    Capture,
    Change,
    Clamp,
    Patch,
    ProjectOut,
    RowTrace,
    Scale,
    Set,
    Where,
)
from terascope.internals.tokens import AllTokens, LastToken, TokenText, positions

See = Callable[[str, Tensor], Tensor]
CPU = torch.device("cpu")


class Llama:
    """A Llama with grouped queries, computed by formula from its weights."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        self.weights: dict[str, Tensor] = {
            name: weight.detach().double() for name, weight in model.state_dict().items()
        }
        self.config = model.config

    def __call__(self, tokens: Sequence[int], see: See) -> Tensor:
        """The logits [tokens, vocabulary]; `see` gets what is at each site, and says what it becomes."""
        w = self.weights
        x = see("embeddings", w["model.embed_tokens.weight"][torch.tensor(list(tokens))])
        for layer in range(self.config.num_hidden_layers):
            x = self._block(layer, x, lambda name, x, layer=layer: see(f"blocks.{layer}.{name}", x))  # type: ignore[misc]
        x = see("norm", self._norm("model.norm", x))
        return see("logits", x @ w["lm_head.weight"].T)

    def _block(self, layer: int, x: Tensor, see: See) -> Tensor:
        name = f"model.layers.{layer}"
        x = see("residual.pre", x)
        x = see("residual.mid", x + see("attention.output", self._attend(name, x, see)))
        h = see("mlp.input", self._norm(f"{name}.post_attention_layernorm", x))
        gate, up = (self._linear(f"{name}.mlp.{one}_proj", h) for one in ("gate", "up"))
        h = see("mlp.neurons", torch.nn.functional.silu(gate) * up)
        return see("residual.post", x + see("mlp.output", self._linear(f"{name}.mlp.down_proj", h)))

    def _attend(self, name: str, x: Tensor, see: See) -> Tensor:
        h = self._norm(f"{name}.input_layernorm", x)
        n, size = len(x), self.config.hidden_size // self.config.num_attention_heads
        q, k, v = (self._linear(f"{name}.self_attn.{one}_proj", h).view(n, -1, size) for one in "qkv")
        q, k, v = see("attention.q", _turned(q)), see("attention.k", _turned(k)), see("attention.v", v)
        groups = q.shape[1] // k.shape[1]
        keys, values = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        scores = torch.einsum("qhd,khd->qhk", q, keys) / math.sqrt(size)
        later = torch.ones(n, n).triu(1).bool()[:, None]
        p = see("attention.probabilities", scores.masked_fill(later, -math.inf).softmax(-1))
        heads = see("attention.heads", torch.einsum("qhk,khd->qhd", p, values))
        return self._linear(f"{name}.self_attn.o_proj", heads.flatten(1))

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.weights[f"{name}.weight"].T

    def _norm(self, name: str, x: Tensor) -> Tensor:
        scale: Tensor = (x.pow(2).mean(-1, keepdim=True) + self.config.rms_norm_eps).rsqrt()
        return x * scale * self.weights[f"{name}.weight"]

    def lens(self, x: Tensor, *, normed: bool = False) -> Tensor:
        """Log-probabilities of the next token if the model ended with `x`."""
        x = x if normed else self._norm("model.norm", x)
        return torch.log_softmax(x @ self.weights["lm_head.weight"].T, -1)


def _turned(x: Tensor, base: float = 10000.0) -> Tensor:
    """Rotary positions."""
    n, _, size = x.shape
    angles = torch.arange(n)[:, None] * base ** (-torch.arange(0, size, 2).double() / size)
    cos, sin = (torch.cat([f(angles)] * 2, -1)[:, None] for f in (torch.cos, torch.sin))
    half = torch.cat([-x[..., size // 2 :], x[..., : size // 2]], -1)
    return x * cos + half * sin


@dataclass
class Done:
    """What came of a row: its answer, with log-probabilities, and what was captured, whole."""

    tokens: list[int]
    logprobs: list[float]
    captured: dict[str, Tensor]
    logits: Tensor
    kept: dict[Where, Tensor] = field(default_factory=dict)


class Interpreter:
    """Carries out one row's plan by computing the whole row anew for each token."""

    def __init__(
        self,
        model: Llama,
        trace: RowTrace,
        prompt: Sequence[int],
        table: TokenTable,
        sources: Mapping[str, Done] | None = None,
        kept: Sequence[Where] = (),
    ) -> None:
        self._model, self._trace, self._prompt, self._table = model, trace, list(prompt), table
        self._sources, self._kept = sources or {}, kept
        self.done = Done([], [], {}, torch.zeros(0))

    def run(self) -> Done:
        """Greedily, to the end."""
        tokens = list(self._prompt)
        for _ in range(max(1, self._trace.generation.max_tokens)):
            logits = self._model(tokens, lambda name, x: self._see(name, x, tokens))
            if not self._trace.generation.max_tokens:
                break
            best = int(logits[-1].argmax())
            self.done.tokens.append(best)
            self.done.logprobs.append(float(logits[-1].log_softmax(-1)[best]))
            tokens.append(best)
        self.done.logits = logits
        return self.done

    def _see(self, name: str, x: Tensor, tokens: list[int]) -> Tensor:
        for one in self._trace.operations:
            if str(one.where.site) != name:
                continue
            places = self.places(one.where, tokens)
            if isinstance(one, Capture):
                self.done.captured[one.name] = _part(x, one.where, places)
            elif places:
                x = self._changed(x, one.where, places, one.change)
        for where in self._kept:
            if str(where.site) == name:
                chosen = [at for at in self.places(where, tokens) if at < len(self._prompt)]
                self.done.kept[where] = _part(x, where, chosen)
        return x

    def places(self, where: Where, tokens: list[int]) -> list[int]:
        """Which tokens are meant."""
        pieces = [self._table.text_bytes(token) for token in tokens]
        n = len(self._prompt)
        found = list(positions(where.tokens, pieces[:n])) if where.steps.takes(0) else []
        for at in range(n, len(tokens)):
            follows = isinstance(where.tokens, AllTokens | LastToken) or (
                isinstance(where.tokens, TokenText) and at in positions(where.tokens, pieces[: at + 1])
            )
            if follows and where.steps.takes(at - n + 1):
                found.append(at)
        return found

    def _changed(self, x: Tensor, where: Where, places: list[int], change: Change) -> Tensor:
        new = x.clone()
        part = _part(x, where, places)
        made = self._made(part, x, where, places, change)
        for number, at in enumerate(places):
            for head in [None] if x.dim() == 2 else where.heads or range(x.shape[1]):
                row = new[at] if head is None else new[at, head]
                value = made[number]
                if head is not None:
                    value = value[(where.heads or list(range(x.shape[1]))).index(head)]
                row[list(where.units) if where.units is not None else slice(None)] = value
        return new

    def _made(self, part: Tensor, x: Tensor, where: Where, places: list[int], change: Change) -> Tensor:
        match change:
            case Set(value):
                return self._value(tensor_of(value, CPU).double(), part).expand_as(part)
            case Add(value, by):
                return part + by * self._value(tensor_of(value, CPU).double(), part)
            case Scale(by):
                return part * by
            case AblateZero():
                return part * 0
            case AblateMean():
                return _part(x, where, list(range(len(self._prompt)))).mean(0).expand_as(part)
            case Clamp(least, most):
                return part.clamp(least, most)
            case ProjectOut(directions):
                given = tensor_of(directions, CPU).double()
                inverse: Tensor = torch.linalg.pinv(given)
                return part - part @ inverse @ given
            case Patch(source, place):
                return self._sources[source].kept[place].expand_as(part)
        raise NotImplementedError(type(change).__name__)

    def _value(self, value: Tensor, part: Tensor) -> Tensor:
        return value[: len(part)] if value.dim() == part.dim() and len(value) > 1 else value


def _part(x: Tensor, where: Where, places: Sequence[int]) -> Tensor:
    found = x[list(places)]
    if where.heads is not None:
        found = found[:, list(where.heads)]
    return found if where.units is None else found[..., list(where.units)]

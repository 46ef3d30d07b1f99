"""Calibration: what a layer costs besides its products, and whole layers with experts at a model's true shapes."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch.nn.functional import rms_norm, silu

from terascope.engines.torch.calibrate_attention import attend_latent
from terascope.engines.torch.calibrate_cases import Case, Maker, Shapes
from terascope.engines.torch.calibrate_products import matrices
from terascope.engines.torch.stopwatch import Work

_BF16 = 2


def small_kernels(maker: Maker, shapes: Shapes, tokens: Sequence[int]) -> Iterator[Case]:
    """Norms, rotary positions, residuals, activation and the write to the cache, of one layer; then routing."""
    for count in tokens:
        shape = {"tokens": count}

        def layer(count: int = count) -> Work:
            rest = _Rest(maker, shapes, count)
            return lambda _: rest.run()

        def mixture(count: int = count) -> Work:
            router = Router(maker, shapes)
            given, logits = maker.normal(count, shapes.hidden), maker.normal(count, shapes.experts)
            return lambda _: router.gather_back(*router.sort(given, logits))

        yield Case("kernels", "layer", "bf16", 0, 0, layer, shape)
        yield Case("kernels", "mixture", "bf16", 0, 0, mixture, shape)


def sampling(maker: Maker, shapes: Shapes, tokens: Sequence[int]) -> Iterator[Case]:
    """The most likely token of each row of logits, on the device."""
    for count in tokens:

        def build(count: int = count) -> Work:
            logits = maker.normal(count, shapes.vocabulary)
            return lambda _: logits.float().softmax(-1).argmax(-1)

        yield Case("kernels", "sampling", "bf16", 0, 0, build, {"tokens": count})


def rotate(given: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Rotary positions of `given` [tokens, ..., width]."""
    first, second = given.chunk(2, dim=-1)
    return given * cosine + torch.cat((-second, first), dim=-1) * sine


def _parts(given: torch.Tensor, first: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `first` values of each row, and the rest."""
    return given[..., :first], given[..., first:]


class _Rest:
    """All of a layer's work between its products, for as many tokens."""

    def __init__(self, maker: Maker, shapes: Shapes, tokens: int) -> None:
        self._shapes = shapes
        self._hidden, self._residual = maker.normal(tokens, shapes.hidden), maker.normal(tokens, shapes.hidden)
        self._queries = maker.normal(tokens, shapes.q_lora)
        self._keys = maker.normal(tokens, shapes.kv_lora + shapes.rope)
        self._rope = maker.normal(tokens, shapes.heads, shapes.rope)
        self._inner = maker.normal(tokens, 2 * shapes.expert_inner)
        self._cosine, self._sine = maker.normal(tokens, 1, shapes.rope), maker.normal(tokens, 1, shapes.rope)
        self._cache = maker.normal(tokens + 1, shapes.kv_lora + shapes.rope)
        self._slots = torch.arange(tokens, device=maker.device)
        self._norms = {one: maker.normal(one) for one in (shapes.hidden, shapes.q_lora, shapes.kv_lora)}

    def run(self) -> torch.Tensor:
        self._norm(self._hidden + self._residual)
        self._norm(self._queries)
        latent, rope = _parts(self._keys, self._shapes.kv_lora)
        rotated = rotate(rope[:, None], self._cosine, self._sine)[:, 0]
        rotate(self._rope, self._cosine, self._sine)
        self._cache.index_copy_(0, self._slots, torch.cat((self._norm(latent), rotated), dim=-1))
        self._norm(self._hidden + self._residual)
        gate, up = self._inner.chunk(2, dim=-1)
        return silu(gate) * up

    def _norm(self, given: torch.Tensor) -> torch.Tensor:
        width = given.shape[-1]
        return rms_norm(given, (width,), self._norms[width], 1e-6)


class Router:
    """Sends tokens to their experts and adds up what comes back, without asking the device for a number."""

    def __init__(self, maker: Maker, shapes: Shapes) -> None:
        self._chosen, self._experts = shapes.chosen, shapes.experts
        self._bias = torch.zeros(shapes.experts, device=maker.device)
        self._bounds = torch.arange(1, shapes.experts + 1, device=maker.device)

    def sort(
        self, given: torch.Tensor, logits: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the rows in the order of their experts, where each expert's end, their tokens, and their weights."""
        scores = logits.float().sigmoid()
        chosen = (scores + self._bias).topk(self._chosen, dim=-1).indices
        weights = scores.gather(1, chosen)
        weights = weights / weights.sum(-1, keepdim=True)
        experts, order = chosen.flatten().sort()
        ends = torch.searchsorted(experts, self._bounds).to(torch.int32)
        tokens = order // self._chosen
        return given[tokens], ends, tokens, weights.flatten()[order]

    def gather_back(
        self, rows: torch.Tensor, ends: torch.Tensor, tokens: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """Return each token's weighted sum of its rows; `ends` is not needed any more."""
        found = torch.zeros(len(rows) // self._chosen, rows.shape[1], device=rows.device, dtype=rows.dtype)
        return found.index_add_(0, tokens, rows * weights[:, None].to(rows.dtype))


class Layer:
    """One decoder layer with latent attention and routed and shared experts, in bf16, for one new token a sequence."""

    def __init__(self, maker: Maker, shapes: Shapes) -> None:
        self._shapes = shapes
        names = ("q_a", "q_b", "kv_a", "o", "shared_up", "shared_down", "router")
        found = matrices(shapes)
        self._weights = {name: maker.normal(found[name][1], found[name][0]) for name in names}
        self._keys = maker.normal(shapes.heads, shapes.nope, shapes.kv_lora)
        self._values = maker.normal(shapes.heads, shapes.kv_lora, shapes.value)
        self._up = maker.normal(shapes.experts, 2 * shapes.expert_inner, shapes.hidden)
        self._down = maker.normal(shapes.experts, shapes.hidden, shapes.expert_inner)
        self._norms = {one: maker.normal(one) for one in (shapes.hidden, shapes.q_lora, shapes.kv_lora)}
        self._router = Router(maker, shapes)

    def run(self, hidden: torch.Tensor, cache: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Return the next layer's `hidden` [batch, hidden]; `cache` [batch, context, latent] gets its last entry."""
        hidden = hidden + self._attend(self._norm(hidden), cache, turns)
        given = self._norm(hidden)
        shared = self._product("shared_down", self._activate(self._product("shared_up", given)))
        return hidden + shared + self._experts(given)

    def _attend(
        self, given: torch.Tensor, cache: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        its = self._shapes
        queries = self._product("q_b", self._norm(self._product("q_a", given)))
        plain, rope = _parts(queries.view(len(given), its.heads, -1), its.nope)
        latent, key = _parts(self._product("kv_a", given), its.kv_lora)
        cache[:, -1] = torch.cat((self._norm(latent), rotate(key[:, None], *turns)[:, 0]), dim=-1)
        absorbed = torch.bmm(plain.transpose(0, 1), self._keys).transpose(0, 1)
        found = attend_latent(torch.cat((absorbed, rotate(rope, *turns)), dim=-1), cache, its.kv_lora)
        values = torch.bmm(found.transpose(0, 1), self._values).transpose(0, 1)
        return self._product("o", values.flatten(1))

    def _experts(self, given: torch.Tensor) -> torch.Tensor:
        rows, ends, tokens, weights = self._router.sort(given, self._product("router", given))
        inner = self._activate(_grouped(rows, self._up, ends))
        return self._router.gather_back(_grouped(inner, self._down, ends), ends, tokens, weights)

    def _product(self, name: str, given: torch.Tensor) -> torch.Tensor:
        return torch.mm(given, self._weights[name].t())

    def _norm(self, given: torch.Tensor) -> torch.Tensor:
        width = given.shape[-1]
        return rms_norm(given, (width,), self._norms[width], 1e-6)

    def _activate(self, given: torch.Tensor) -> torch.Tensor:
        gate, up = given.chunk(2, dim=-1)
        return silu(gate) * up


def _grouped(given: torch.Tensor, weights: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = torch._grouped_mm(given, weights.transpose(1, 2), offs=ends)  # noqa: SLF001 - its only name
    return found


def layers(maker: Maker, shapes: Shapes, batches: Sequence[int], contexts: Sequence[int]) -> Iterator[Case]:
    """Whole layers with experts, one new token for each of `batches` sequences of `contexts` tokens.

    `read` is the bytes of attention, router, shared experts and cache; the routed experts' share is whatever the random
    tokens choose, on average `experts` x (1 - (1 - chosen / experts)^batch) of them.
    """
    kept: list[Layer] = []

    def layer() -> Layer:
        if not kept:
            kept.append(Layer(maker, shapes))
        return kept[0]

    for context in contexts:
        for batch in batches:
            shape = {"tokens": batch, "batch": batch, "context": context}
            read, operations = _needs(shapes, batch, context)
            build = _build(maker, shapes, layer, batch, context)
            yield Case("layer", f"{shapes.name} layer", "bf16", read, operations, build, shape)


def _build(maker: Maker, shapes: Shapes, layer: Callable[[], Layer], batch: int, context: int) -> Callable[[], Work]:
    def build() -> Work:
        one = layer()
        cache = maker.normal(batch, context, shapes.kv_lora + shapes.rope)
        turns = maker.normal(batch, 1, shapes.rope), maker.normal(batch, 1, shapes.rope)
        hidden = maker.normal(batch, shapes.hidden) * 50  # near one, as behind an embedding's norm
        return lambda _: one.run(hidden, cache, turns)

    return build


def _needs(shapes: Shapes, batch: int, context: int) -> tuple[float, float]:
    """Bytes and operations of a whole layer."""
    found = matrices(shapes)
    names = ("q_a", "q_b", "kv_a", "kv_b", "o", "shared_up", "shared_down", "router")
    dense = sum(found[name][0] * found[name][1] for name in names)
    expert = 3 * shapes.hidden * shapes.expert_inner
    hit = shapes.experts * (1 - (1 - shapes.chosen / shapes.experts) ** batch)
    wide = shapes.kv_lora + shapes.rope
    attended = 2.0 * batch * context * shapes.heads * (wide + shapes.kv_lora)
    read = _BF16 * (dense + hit * expert + batch * context * wide)
    return read, 2.0 * batch * (dense + shapes.chosen * expert) + attended

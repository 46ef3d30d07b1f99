"""Gradients and attributions: as plain autograd on the model by hand."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from terascope.core.errors import BadRequest, EngineNan
from terascope.engines.torch.linear import PackedLinear
from terascope.engines.torch.model import CausalModel
from terascope.engines.torch.tracing.direct import Direct
from terascope.engines.torch.tracing.gradients import Ask, Named, Work, batches, go_back
from terascope.engines.torch.tracing.lens import Unembedding
from terascope.engines.torch.tracing.passes import DecoderPasses
from terascope.engines.torch.tracing.row import Bench, RowTracer, no_sources
from terascope.engines.torch.tracing.scalars import Scalar
from terascope.internals.plan import (
    Add,
    Dot,
    Gradient,
    Intervention,
    Logit,
    LogProbability,
    Loss,
    Method,
    Scale,
)
from terascope.internals.plan import Scalar as ScalarOf
from terascope.internals.tokens import AllTokens, LastToken, Positions

from .plans import prompt_of, trace, vector, where
from .reference import Interpreter, Llama

SITES = (
    "embeddings", "blocks.0.residual.mid", "blocks.1.attention.q", "blocks.0.attention.k", "blocks.1.attention.v",
    "blocks.0.attention.probabilities", "blocks.1.attention.heads", "blocks.0.attention.output", "blocks.1.mlp.input",
    "blocks.0.mlp.neurons", "blocks.1.residual.post", "norm", "logits",
)  # fmt: skip
PROMPT = prompt_of(3, 14)
STEERED = (
    Intervention(where("blocks.0.residual.post", [2, -1]), Add(vector(4, 64))),
    Intervention(where("blocks.1.attention.heads", heads=(1,)), Scale(0.5)),
)
SCALARS: dict[str, ScalarOf] = {
    "logit": Logit(7),
    "difference": Logit(7, 9, Positions((4,))),
    "log-probability": LogProbability(11, LastToken()),
    "loss": Loss(AllTokens()),
    "loss of some": Loss(Positions((3, 5))),
    "dot": Dot(where("blocks.1.mlp.output", [3, -1]), vector(8, 64)),
}


def ask(
    bench: Bench, gradient: Gradient, prompt: Sequence[int], operations: Any = (), sources: Any = no_sources
) -> Ask:
    pieces = [bench.table.text_bytes(token) for token in prompt]
    scalar = Scalar(gradient.of, prompt, pieces, bench.device, int)
    return Ask(prompt, pieces, gradient, scalar, RowTracer(trace(*operations), prompt, bench, sources), sources)


def run(passes: DecoderPasses, asks: Sequence[Ask]) -> list[Named]:
    works = [Work(one, passes.taps) for one in asks]
    for batch in batches(works):
        go_back(passes, batch)
    return [work.result() for work in works]


def scalar_by_hand(of: Any, logits: Tensor, dot: Tensor | None, prompt: Sequence[int]) -> Tensor:
    logs = logits.log_softmax(-1)
    match of:
        case Logit(int(token), minus, at):
            place = at.numbers[0] if isinstance(at, Positions) else -1
            return logits[place, token] - (logits[place, minus] if isinstance(minus, int) else 0)
        case LogProbability(int(token)):
            return logs[-1, token]
        case Loss(tokens):
            chosen = tokens.numbers if isinstance(tokens, Positions) else range(1, len(prompt))
            return -torch.stack([logs[at - 1, prompt[at]] for at in chosen]).mean()
    assert dot is not None
    return dot


def by_hand(
    model: Llama,
    bench: Bench,
    of: Any,
    prompt: Sequence[int],
    sites: Sequence[str],
    operations: Any = (),
    move: Callable[[str, Tensor], Tensor] = lambda _, x: x,
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """The scalar, what is at the sites, and its gradient by them."""
    interpreter = Interpreter(model, trace(*operations), prompt, bench.table)
    held: dict[str, Tensor] = {}
    dots: list[Tensor] = []

    def see(name: str, x: Tensor) -> Tensor:
        x = interpreter._see(name, x, list(prompt))
        if name in sites:
            x = move(name, x)
            x = held[name] = x.clone() if x.requires_grad else x.detach().clone().requires_grad_()
        if isinstance(of, Dot) and name == str(of.where.site):
            chosen = x[interpreter.places(of.where, list(prompt))]
            dots.append((chosen * torch.frombuffer(bytearray(of.direction.data), dtype=torch.float64)).sum())
        return x

    value = scalar_by_hand(of, model(prompt, see), dots[0] if dots else None, prompt)
    value = value + 0 * sum(x.sum() for x in held.values())  # also where it depends on none of them
    found: Sequence[Tensor | None] = torch.autograd.grad(value, list(held.values()), allow_unused=True)
    gradients = {
        name: torch.zeros_like(x) if one is None else one for (name, x), one in zip(held.items(), found, strict=True)
    }
    return value.detach(), {name: x.detach() for name, x in held.items()}, gradients


def close(found: Tensor, right: Tensor) -> None:
    scale = float(right.norm()) or 1.0
    assert found.shape == right.shape
    assert float((found.double() - right).norm()) < 2e-3 * scale


@pytest.fixture(scope="module")
def passes(tiny: CausalModel, bench: Bench) -> DecoderPasses:
    assert any(isinstance(one, PackedLinear) for one in tiny.packed.module.modules())
    return DecoderPasses(tiny.packed)


@pytest.mark.parametrize("name", SCALARS)
@pytest.mark.parametrize("operations", [(), STEERED], ids=["plain", "steered"])
def test_gradients_by_every_site(passes: DecoderPasses, bench: Bench, llama: Llama, name: str, operations: Any) -> None:
    gradient = Gradient(SCALARS[name], tuple(where(site) for site in SITES))
    (found,) = run(passes, [ask(bench, gradient, PROMPT, operations)])
    value, _, right = by_hand(llama, bench, SCALARS[name], PROMPT, SITES, operations)
    close(found["gradient/value"], value)
    for site in SITES:
        close(found[f"gradient/{site}"], right[site])


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.integers(2, 30), st.sampled_from(sorted(SCALARS)), st.sampled_from(SITES), st.booleans()),
        min_size=1,
        max_size=5,
    )
)
def test_rows_of_one_batch_have_their_own(
    passes: DecoderPasses, bench: Bench, llama: Llama, drawn: list[tuple[int, str, str, bool]]
) -> None:
    """Also where tokens, heads or units were chosen."""
    asks, right = [], []
    for number, (length, name, site, part) in enumerate(drawn):
        prompt = prompt_of(number, length + 5)
        chosen = where(site, [4, 1], units=(2, 0)) if part else where(site)
        asks.append(ask(bench, Gradient(SCALARS[name], (chosen,)), prompt, STEERED[:1]))
        _, _, gradients = by_hand(llama, bench, SCALARS[name], prompt, [site], STEERED[:1])
        right.append(gradients[site][[4, 1]][..., [2, 0]] if part else gradients[site])
    for found, wanted, (_, _, site, _) in zip(run(passes, asks), right, drawn, strict=True):
        close(found[f"gradient/{site}"], wanted)


def test_input_times_gradient(passes: DecoderPasses, bench: Bench, llama: Llama) -> None:
    sites = ("embeddings", "blocks.1.attention.heads")
    gradient = Gradient(Logit(7), tuple(map(where, sites)), Method.INPUT_TIMES_GRADIENT)
    (found,) = run(passes, [ask(bench, gradient, PROMPT)])
    _, at, right = by_hand(llama, bench, Logit(7), PROMPT, sites)
    for site in sites:
        close(found[f"gradient/{site}"], (at[site] * right[site]).sum(-1))


def sources_of_other(model: Llama, bench: Bench, other: Sequence[int], sites: Sequence[str]) -> Any:
    _, at, _ = by_hand(model, bench, Logit(0), other, sites)
    return lambda _, place: at[str(place.site)].float()


def test_attribution_patching(passes: DecoderPasses, bench: Bench, llama: Llama) -> None:
    sites = ("blocks.0.residual.post", "blocks.1.attention.heads")
    other = prompt_of(5, len(PROMPT))
    sources = sources_of_other(llama, bench, other, sites)
    gradient = Gradient(Logit(7, 9), tuple(map(where, sites)), Method.ATTRIBUTION_PATCHING, "other")
    (found,) = run(passes, [ask(bench, gradient, PROMPT, (), sources)])
    _, at, right = by_hand(llama, bench, Logit(7, 9), PROMPT, sites)
    _, theirs, _ = by_hand(llama, bench, Logit(7, 9), other, sites)
    for site in sites:
        close(found[f"gradient/{site}"], ((theirs[site] - at[site]) * right[site]).sum(-1))


@pytest.mark.parametrize("source", ["", "other"])
def test_integrated_gradients(passes: DecoderPasses, bench: Bench, llama: Llama, source: str) -> None:
    sites, steps = ("embeddings", "blocks.0.mlp.output"), 6
    other = prompt_of(5, len(PROMPT))
    sources = sources_of_other(llama, bench, other, sites)
    gradient = Gradient(Logit(7), tuple(map(where, sites)), Method.INTEGRATED_GRADIENTS, source, steps)
    (found,) = run(passes, [ask(bench, gradient, PROMPT, (), sources)])
    value, at, _ = by_hand(llama, bench, Logit(7), PROMPT, sites)
    _, theirs, _ = by_hand(llama, bench, Logit(7), other, sites)
    close(found["gradient/value"], value)
    for site in sites:
        base = theirs[site] if source else torch.zeros_like(at[site])
        total = torch.zeros_like(base)
        for step in range(steps):
            share = (step + 0.5) / steps
            move = lambda _, x, base=base, share=share: base + share * (x - base)  # noqa: E731
            _, _, right = by_hand(llama, bench, Logit(7), PROMPT, [site], (), move)
            total += right[site] / steps
        close(found[f"gradient/{site}"], ((at[site] - base) * total).sum(-1))


def test_integrated_gradients_add_up(passes: DecoderPasses, bench: Bench, llama: Llama) -> None:
    """To the difference that the whole way from the other prompt's embeddings makes."""
    other = prompt_of(5, len(PROMPT))
    sources = sources_of_other(llama, bench, other, ["blocks.1.residual.pre"])
    gradient = Gradient(Logit(7), (where("blocks.1.residual.pre"),), Method.INTEGRATED_GRADIENTS, "other", 60)
    (found,) = run(passes, [ask(bench, gradient, PROMPT, (), sources)])
    ours, _, _ = by_hand(llama, bench, Logit(7), PROMPT, [SITES[0]])
    theirs, _, _ = by_hand(llama, bench, Logit(7), other, [SITES[0]])
    assert float(found["gradient/blocks.1.residual.pre"].sum()) == pytest.approx(float(ours - theirs), rel=0.02)


@pytest.mark.parametrize("of", [Logit(7), Logit(7, 9, Positions((4,)))])
def test_direct_logit_attribution_adds_up(
    tiny: CausalModel, passes: DecoderPasses, bench: Bench, llama: Llama, of: Logit
) -> None:
    """What all parts add is the logit, and what the heads add is what their attention adds."""
    parts = ["embeddings", *(f"blocks.{n}.{one}.output" for n in (0, 1) for one in ("attention", "mlp"))]
    heads = ["blocks.0.attention.heads", "blocks.1.attention.heads"]
    gradient = Gradient(of, tuple(map(where, [*parts, *heads])), Method.DIRECT_LOGIT)
    unembedding = Unembedding(tiny.packed.module, passes.sites)
    found = Direct(ask(bench, gradient, PROMPT), passes, unembedding).run()
    place = 4 if of.minus else len(PROMPT) - 1
    value, at, _ = by_hand(llama, bench, of, PROMPT, [*parts, "blocks.1.residual.post"])
    close(found["gradient/value"], value)
    assert float(sum(found[f"gradient/{part}"].sum() for part in parts)) == pytest.approx(float(value), abs=1e-3)
    weight = llama.weights["lm_head.weight"]
    direction = weight[int(of.token)] - (0 if of.minus is None else weight[int(of.minus)])
    scale = (at["blocks.1.residual.post"][place].pow(2).mean() + llama.config.rms_norm_eps).rsqrt()
    for part in parts:
        right = at[part][place] * scale * llama.weights["model.norm.weight"] @ direction
        assert float(found[f"gradient/{part}"][place]) == pytest.approx(float(right), abs=1e-3)
    for name in heads:
        one = found[f"gradient/{name}"]
        assert one.shape == (len(PROMPT), 4)
        whole = found[f"gradient/{name.replace('heads', 'output')}"]
        torch.testing.assert_close(one.sum(-1), whole, atol=1e-4, rtol=1e-3)


def test_what_a_gradient_is_refused_for(passes: DecoderPasses, bench: Bench, llama: Llama) -> None:
    with pytest.raises(BadRequest, match="no token of this prompt has a loss"):
        ask(bench, Gradient(Loss(AllTokens()), (where("embeddings"),)), PROMPT[:1])
    with pytest.raises(BadRequest, match="no token 40"):
        ask(bench, Gradient(Logit(7, None, Positions((40,))), ()), PROMPT)
    sources = sources_of_other(llama, bench, PROMPT[:5], ["embeddings"])
    gradient = Gradient(Logit(7), (where("embeddings"),), Method.ATTRIBUTION_PATCHING, "other")
    with pytest.raises(BadRequest, match="5 tokens in the other prompt and 14 here"):
        run(passes, [ask(bench, gradient, PROMPT, (), sources)])


def test_gradients_that_are_no_numbers_are_told(passes: DecoderPasses, bench: Bench) -> None:
    huge = Intervention(where("blocks.0.residual.post"), Scale(1e38))
    bad = ask(bench, Gradient(Logit(7), (where("embeddings"),)), PROMPT, [huge])
    good = ask(bench, Gradient(Logit(7), (where("embeddings"),)), PROMPT)
    works = [Work(one, passes.taps) for one in (bad, good)]
    for batch in batches(works):
        go_back(passes, batch)
    with pytest.raises(EngineNan):
        works[0].result()
    (alone,) = run(passes, [good])
    torch.testing.assert_close(works[1].result()["gradient/embeddings"], alone["gradient/embeddings"])


def test_nothing_is_left_in_the_model(tiny: CausalModel, passes: DecoderPasses, bench: Bench) -> None:
    bad = ask(bench, Gradient(Logit(7), (where("blocks.0.mlp.output"),), Method.INTEGRATED_GRADIENTS, "x"), PROMPT)
    with pytest.raises(BadRequest, match="no row 'x'"):
        run(passes, [bad])
    module = tiny.packed.module
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in module.modules())
    assert not passes.taps._open

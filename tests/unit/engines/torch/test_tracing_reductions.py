"""Reductions, autoencoders and changes that need them, in chunks and in answers, as by formula."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from terascope.engines.torch.model import CausalModel
from terascope.engines.torch.rows import RowPlan
from terascope.engines.torch.tracing import lens as lens_module
from terascope.engines.torch.tracing.collecting import Named
from terascope.engines.torch.tracing.features import Autoencoder
from terascope.engines.torch.tracing.row import Bench, RowTracer, no_sources
from terascope.internals.plan import Add, Capture, EditFeature, FeatureChange, Intervention, Where
from terascope.internals.reductions import (
    Activation,
    Encode,
    LogitLens,
    Max,
    Mean,
    Norm,
    Over,
    Project,
    Reduction,
    SparseAutoencoder,
    TopK,
    TunedLens,
)

from .driver import Driver
from .plans import array, planned, prompt_of, random, trace, vector, where
from .reference import Interpreter, Llama

PROMPT = prompt_of(2, 23)
STREAM, HEADS = where("blocks.0.residual.post"), where("blocks.1.attention.heads")


def autoencoder(activation: Activation = Activation.RELU, *, center: bool = True) -> SparseAutoencoder:
    return SparseAutoencoder(
        array(random(64, 30, seed=1)),
        array(random(30, seed=2)),
        array(random(30, 64, seed=3)),
        array(random(64, seed=4)),
        array(random(30, seed=5).abs()) if activation is Activation.JUMP_RELU else None,
        activation,
        4 if activation is Activation.TOP_K else 0,
        center,
    )


def encoded(weights: SparseAutoencoder, x: Tensor) -> Tensor:
    """What an autoencoder makes of `x`, the plain way."""
    x = x - random(64, seed=4) if weights.center else x
    scores = x @ random(64, 30, seed=1) + random(30, seed=2)
    if weights.activation is Activation.JUMP_RELU:
        return scores * (scores > random(30, seed=5).abs())
    if weights.activation is Activation.TOP_K:
        least = scores.topk(4, -1).values[..., -1:]
        return scores.clamp(min=0) * (scores >= least)
    return scores.clamp(min=0)


def run(tiny: CausalModel, bench: Bench, *operations: Any, most: int = 4, step_tokens: int = 512) -> RowTracer:
    driver = Driver(tiny, step_tokens=step_tokens)
    driver._packed._taps = bench.taps
    one = trace(*operations, most=most)
    tracer = RowTracer(one, PROMPT, bench, no_sources)
    plain = trace(most=3)
    for number in (3, 4):  # rows beside it, one with a plan
        other = RowTracer(trace(Capture("x", STREAM, LogitLens(2))), prompt_of(number, 9), bench, no_sources)
        driver.ask(planned(plain, prompt_of(number, 9), other))
    asked = driver.ask(planned(one, PROMPT, tracer))
    driver.finish()
    assert (tracer.failure, asked.error) == (None, None)
    return tracer


def by_hand(llama: Llama, bench: Bench, place: Where) -> Tensor:
    """What is at a place, in the prompt and four tokens of the answer."""
    one = trace(Capture("x", place), most=4)
    return Interpreter(llama, one, PROMPT, bench.table).run().captured["x"]


REDUCTIONS: dict[str, tuple[Where, Reduction, Callable[[Tensor], Tensor]]] = {
    "mean over tokens": (STREAM, Mean(), lambda x: x.mean(0)),
    "mean over heads": (HEADS, Mean(Over.HEADS), lambda x: x.mean(1)),
    "mean over units": (HEADS, Mean(Over.UNITS), lambda x: x.mean(2)),
    "max over tokens": (HEADS, Max(), lambda x: x.amax(0)),
    "max over heads": (HEADS, Max(Over.HEADS), lambda x: x.amax(1)),
    "max over units": (STREAM, Max(Over.UNITS), lambda x: x.amax(1)),
    "norm": (STREAM, Norm(), lambda x: x.norm(dim=-1)),
    "norm of heads": (HEADS, Norm(), lambda x: x.norm(dim=-1)),
    "projection": (STREAM, Project(array(random(3, 64))), lambda x: x @ random(3, 64).T),
    "basis": (
        STREAM,
        Project(array(random(3, 64)), vector(8, 64)),
        lambda x: (x - random(64, seed=8)) @ random(3, 64).T,
    ),
}


@pytest.mark.parametrize("step_tokens", [6, 512])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_numbers(tiny: CausalModel, bench: Bench, llama: Llama, name: str, step_tokens: int) -> None:
    place, reduction, make = REDUCTIONS[name]
    tracer = run(tiny, bench, Capture("x", place, reduction), step_tokens=step_tokens)
    right = make(by_hand(llama, bench, place))
    torch.testing.assert_close(tracer.found("x")[""].double(), right, atol=2e-3, rtol=2e-3)


def ranked(found: Named, names: tuple[str, str], right: Tensor, k: int) -> None:
    """The best are the best; equal ones may stand in any order."""
    values, numbers = (found[f".{name}"] for name in names)
    assert values.shape == numbers.shape == (*right.shape[:-1], k)
    best = right.topk(k, -1)
    torch.testing.assert_close(values.double(), best.values, atol=3e-3, rtol=3e-3)
    torch.testing.assert_close(right.gather(-1, numbers.long()), best.values, atol=3e-3, rtol=3e-3)


@pytest.mark.parametrize("step_tokens", [6, 512])
def test_largest_with_their_numbers(tiny: CausalModel, bench: Bench, llama: Llama, step_tokens: int) -> None:
    tracer = run(tiny, bench, Capture("x", HEADS, TopK(3)), step_tokens=step_tokens)
    ranked(tracer.found("x"), ("values", "indices"), by_hand(llama, bench, HEADS), 3)


def test_largest_of_some_units_have_the_numbers_of_the_site(tiny: CausalModel, bench: Bench, llama: Llama) -> None:
    some = where("blocks.0.residual.post", units=(60, 3, 17, 5))
    found = run(tiny, bench, Capture("x", some, TopK(2))).found("x")
    whole = by_hand(llama, bench, STREAM)
    assert set(found[".indices"].flatten().tolist()) <= {60, 3, 17, 5}
    torch.testing.assert_close(whole.gather(-1, found[".indices"]), found[".values"].double(), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("activation", Activation)
@pytest.mark.parametrize("center", [True, False])
def test_features(tiny: CausalModel, bench: Bench, llama: Llama, activation: Activation, center: bool) -> None:
    weights = autoencoder(activation, center=center)
    found = run(tiny, bench, Capture("x", STREAM, Encode(weights, 4))).found("x")
    ranked(found, ("activations", "features"), encoded(weights, by_hand(llama, bench, STREAM)), 4)


LENSES: dict[str, tuple[str, Any, Callable[[Llama, Tensor], Tensor]]] = {
    "logit lens": ("blocks.0.residual.post", LogitLens(5), lambda model, x: model.lens(x)),
    "of embeddings": ("embeddings", LogitLens(5), lambda model, x: model.lens(x)),
    "behind the norm": ("norm", LogitLens(5), lambda model, x: model.lens(x, normed=True)),
    "tuned lens": (
        "blocks.0.residual.post",
        TunedLens(5, array(random(64, 64) / 20), vector(3, 64)),
        lambda model, x: model.lens(x + x @ (random(64, 64) / 20).T + random(64, seed=3)),
    ),
}


@pytest.mark.parametrize("step_tokens", [6, 512])
@pytest.mark.parametrize("name", LENSES)
def test_lenses(tiny: CausalModel, bench: Bench, llama: Llama, name: str, step_tokens: int) -> None:
    site, reduction, make = LENSES[name]
    found = run(tiny, bench, Capture("x", where(site), reduction), step_tokens=step_tokens).found("x")
    ranked(found, ("log_probabilities", "tokens"), make(llama, by_hand(llama, bench, where(site))), 5)


def test_lenses_of_all_rows_and_layers_are_one_multiplication(tiny: CausalModel, bench: Bench) -> None:
    calls = []
    head = tiny.packed.module.get_output_embeddings()
    handle = head.register_forward_hook(lambda *_: calls.append(1))
    captures = [Capture(str(n), where(f"blocks.{n}.residual.post", "last"), LogitLens(2)) for n in (0, 1)]
    driver = Driver(tiny)
    driver._packed._taps = bench.taps
    tracers = [RowTracer(trace(*captures), prompt_of(n, 9), bench, no_sources) for n in range(4)]
    for number, tracer in enumerate(tracers):
        driver.ask(planned(trace(*captures), prompt_of(number, 9), tracer))
    driver.step()
    driver.finish()
    handle.remove()
    assert len(calls) == 2  # the step's own logits, and the lenses of eight vectors
    assert all(tracer.found(str(n))[".tokens"].shape == (1, 2) for tracer in tracers for n in (0, 1))


def test_many_lenses_do_not_need_memory_for_all_logits_at_once(bench: Bench) -> None:
    lens = lens_module.Lens(bench.lens._unembedding, torch.float32)
    most = lens_module._LOGITS_AT_ONCE // 418
    sizes = []
    head = bench.lens._unembedding._head
    assert head is not None
    handle = head.register_forward_hook(lambda _, __, output: sizes.append(output.shape[0]))
    x = torch.randn(most + 5, 64)
    found: list[Tensor] = []
    lens.ask(x, 2, STREAM.site.place, lambda values, _: found.append(values))
    with torch.inference_mode():
        lens.flush()
    handle.remove()
    assert sizes == [most, 5]
    assert found[0].shape == (most + 5, 2)


@pytest.mark.parametrize("change", FeatureChange)
@pytest.mark.parametrize("activation", Activation)
def test_a_feature_is_edited_and_the_rest_is_kept(
    tiny: CausalModel, bench: Bench, llama: Llama, change: FeatureChange, activation: Activation
) -> None:
    weights = autoencoder(activation)
    edit = EditFeature(weights, 7, change, 2.5)
    found = run(tiny, bench, Intervention(STREAM, edit), Capture("x", STREAM), most=0).found("x")[""]
    before = by_hand(llama, bench, where("blocks.0.residual.post", steps="prompt"))
    now = encoded(weights, before)[:, 7]
    wanted = {"set": torch.full_like(now, 2.5), "add": now + 2.5, "scale": now * 2.5}[change]
    right = before + (wanted - now)[:, None] * random(30, 64, seed=3)[7]
    torch.testing.assert_close(found.double(), right, atol=3e-3, rtol=3e-3)


def test_an_edit_without_a_decoder_fails_its_row(tiny: CausalModel, bench: Bench) -> None:
    weights = SparseAutoencoder(array(random(64, 30)))
    edit = EditFeature(weights, 7, FeatureChange.SET, 1.0)
    tracer = RowTracer(trace(Intervention(STREAM, edit)), PROMPT, bench, no_sources)
    Driver(tiny).alone(RowPlan(PROMPT, planned(trace(), PROMPT, tracer).sampling, 0, attachments=(tracer,)))
    assert tracer.failure is not None
    assert "decoder" in tracer.failure.message
    with pytest.raises(RuntimeError):
        Autoencoder(weights, bench.device).edited(torch.zeros(1, 64), edit)


def test_captures_see_what_stands_before_them(tiny: CausalModel, bench: Bench, llama: Llama) -> None:
    add = Intervention(STREAM, Add(vector(1, 64)))
    tracer = run(tiny, bench, Capture("before", STREAM), add, Capture("between", STREAM), add, Capture("after", STREAM))
    before, between, after = (tracer.found(name)[""].double() for name in ("before", "between", "after"))
    steps = random(64, seed=1).expand_as(before)
    torch.testing.assert_close(between - before, steps, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(after - between, steps, atol=1e-5, rtol=1e-4)


def test_values_for_each_token_of_the_prompt(tiny: CausalModel, bench: Bench) -> None:
    """Their tokens keep the order in which they were asked for, whatever the chunks."""
    chosen = where("blocks.0.residual.post", [20, 2, 9])
    values = random(3, 64)
    operations = (Capture("a", chosen), Intervention(chosen, Add(array(values))), Capture("b", chosen))
    for step_tokens in (6, 512):
        tracer = run(tiny, bench, *operations, step_tokens=step_tokens)
        assert tracer.tokens("a") == [20, 2, 9]
        difference = tracer.found("b")[""].double() - tracer.found("a")[""].double()
        torch.testing.assert_close(difference, values, atol=1e-5, rtol=1e-4)

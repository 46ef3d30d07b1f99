"""Rows with plans in the running batch: as alone, and as by hand."""

from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from terascope.engines.torch.model import CausalModel
from terascope.engines.torch.rows import RowPlan
from terascope.engines.torch.sampling import Sampling
from terascope.engines.torch.tracing.row import Bench, RowTracer, no_sources
from terascope.internals.plan import (
    AblateMean,
    AblateZero,
    Add,
    Capture,
    Change,
    Clamp,
    Intervention,
    ProjectOut,
    RowTrace,
    Scale,
    Set,
    Where,
)
from terascope.internals.sites import Place, axes
from terascope.internals.tokens import Positions, Slice, parse_tokens

from .driver import Asked, Driver
from .plans import SHAPE, array, planned, prompt_of, random, trace, vector, where
from .reference import Done, Interpreter, Llama

SITES = (
    "embeddings", "blocks.0.residual.pre", "blocks.1.residual.mid", "blocks.0.residual.post", "blocks.1.attention.q",
    "blocks.0.attention.k", "blocks.1.attention.v", "blocks.0.attention.heads", "blocks.1.attention.output",
    "blocks.0.attention.probabilities", "blocks.0.mlp.input", "blocks.1.mlp.neurons", "blocks.0.mlp.output",
    "blocks.1.residual.post", "norm", "logits",
)  # fmt: skip


def same(one: RowTrace, tracer: RowTracer, asked: Asked, done: Done) -> None:
    assert tracer.failure is None
    assert asked.error is None
    assert asked.tokens() == done.tokens
    assert asked.logprobs() == pytest.approx(done.logprobs, abs=2e-3)
    for capture in one.captures:
        right = done.captured[capture.name]
        found = tracer.found(capture.name).get("", torch.zeros(0))
        if not right.numel():
            assert not found.numel()
            continue
        if capture.where.site.place is Place.ATTENTION_PROBABILITIES:  # filled up when the answer's length is known
            found = torch.nn.functional.pad(found, (0, right.shape[-1] - found.shape[-1]))
        assert found.shape == right.shape, capture
        error = (found.double() - right).norm() / right.norm().clamp_min(1e-3)
        assert float(error) < 2e-3, capture


def _part(draw: Any, site: str) -> dict[str, Any]:
    """Some heads and units of a site, or all."""
    *heads, last = axes(where(site).site, SHAPE)
    part: dict[str, Any] = {}
    if heads and draw(st.booleans()):
        part["heads"] = tuple(draw(st.sets(st.integers(0, heads[0].size - 1), min_size=1)))
    if last.size and draw(st.booleans()):
        part["units"] = tuple(draw(st.sets(st.integers(0, min(last.size, 9) - 1), min_size=1)))
    return part


@st.composite
def places(draw: Any, length: int, least: int = 1) -> Where:
    site = draw(st.sampled_from(SITES))
    number = st.integers(-length, length - 1)
    tokens = draw(
        st.sampled_from(["all", "last", "1:-1", ":2", {"text": "a"}])
        | number
        | st.lists(number, min_size=1, max_size=4, unique_by=lambda at: at % length)
    )
    steps = draw(st.sampled_from(["all", "prompt", "generated", [0, 2], [1, 3]]))
    of_prompt = isinstance(parse_tokens(tokens), Positions | Slice)
    return where(site, tokens, "prompt" if of_prompt else steps, **_part(draw, site))


@st.composite
def interventions(draw: Any, length: int) -> Intervention:
    place = draw(places(length))
    last = axes(place.site, SHAPE)[-1].size
    size = len(place.units) if place.units is not None else last
    seed = draw(st.integers(0, 99))
    kinds: list[Change] = [Scale(draw(st.sampled_from([0.5, -1.0, 2.0]))), AblateZero(), AblateMean(), Clamp(-0.3, 0.4)]
    if size:
        kinds += [Set(vector(seed, size)), Add(vector(seed, size), 0.5)]
        directions = random(2, size, seed=seed)
        kinds.append(ProjectOut(array(torch.cat([directions, directions[:1]]))))
    return Intervention(place, kinds[draw(st.integers(0, len(kinds) - 1))])


@st.composite
def rows(draw: Any) -> tuple[RowTrace, list[int]]:
    prompt = prompt_of(draw(st.integers(0, 9)), draw(st.integers(1, 40)))
    captures = st.builds(lambda place: Capture("", place), places(len(prompt)))
    drawn = draw(st.lists(captures | interventions(len(prompt)), max_size=5))
    named = [Capture(f"c{n}", one.where) if isinstance(one, Capture) else one for n, one in enumerate(drawn)]
    return trace(*named, most=draw(st.sampled_from([0, 4]))), prompt


@settings(max_examples=100, phases=[Phase.reuse, Phase.generate])  # making a failure smaller takes minutes
@given(st.lists(rows(), min_size=1, max_size=5), st.sampled_from([4, 24, 512]), st.sampled_from([160, 40_000]))
def test_rows_of_one_batch_are_as_by_hand(
    tiny: CausalModel,
    bench: Bench,
    llama: Llama,
    drawn: list[tuple[RowTrace, list[int]]],
    step_tokens: int,
    cache_tokens: int,
) -> None:
    """Whatever plans stand beside each other, chunked or not, computed again or not."""
    driver = Driver(tiny, cache_tokens, 5, step_tokens)
    driver._packed._taps = bench.taps
    plain = driver.ask(RowPlan(prompt_of(7, 20), Sampling(temperature=0, logprobs=0), 4, ignore_eos=True))
    tracers = [RowTracer(one, prompt, bench, no_sources) for one, prompt in drawn]
    asked = [driver.ask(planned(one, prompt, tracer)) for (one, prompt), tracer in zip(drawn, tracers, strict=True)]
    driver.finish()
    table = tiny.vocabulary.table
    for (one, prompt), tracer, answer in zip(drawn, tracers, asked, strict=True):
        same(one, tracer, answer, Interpreter(llama, one, prompt, table).run())
    nothing = Interpreter(llama, trace(most=4), prompt_of(7, 20), table).run()
    assert (plain.tokens(), plain.error) == (nothing.tokens, None)
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in tiny.packed.module.modules())

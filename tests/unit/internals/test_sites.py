"""One language of sites: what is read, what it stands for in a model, and what is said of what is not there."""

import contextlib
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.core.errors import BadRequest
from terascope.internals.shape import ModelShape
from terascope.internals.sites import (
    MEANINGS,
    Axis,
    Layers,
    Place,
    Site,
    SitePattern,
    all_sites,
    axes,
    has_heads,
    is_residual,
    is_writable,
)

from .shapes import BERT, DEEPSEEK, GPT2, LINEAR, LLAMA, shapes


def expand(text: str, shape: ModelShape) -> list[str]:
    return [str(site) for site in SitePattern.parse(text).expand(shape)]


def refusal(text: str, shape: ModelShape = LLAMA) -> str:
    with pytest.raises(BadRequest) as caught:
        SitePattern.parse(text).expand(shape)
    return caught.value.message


layers = st.just(Layers()) | st.builds(Layers, st.integers(-99, 99), st.integers(-99, 99))


@given(layers)
def test_layers_are_read_as_they_are_written(one: Layers) -> None:
    assert Layers.parse(str(one)) == one


@given(st.data(), shapes)
def test_every_site_of_a_model_is_read_as_it_is_written(data: st.DataObject, shape: ModelShape) -> None:
    site = data.draw(st.sampled_from(list(all_sites(shape))))
    pattern = SitePattern.parse(str(site))
    assert str(pattern) == str(site)
    assert pattern.expand(shape) == (site,)


@given(shapes)
def test_every_site_has_axes_and_a_meaning(shape: ModelShape) -> None:
    found = list(all_sites(shape))
    assert len(set(found)) == len(found)
    for site in found:
        assert MEANINGS[site.place]
        sizes = [axis.size for axis in axes(site, shape)]
        assert len(sizes) == 1 + has_heads(site)
        assert all(sizes) or site.place is Place.ATTENTION_PROBABILITIES


@given(shapes, st.data())
def test_a_negative_layer_counts_from_the_end(shape: ModelShape, data: st.DataObject) -> None:
    layer = data.draw(st.integers(0, shape.layers - 1))
    assert expand(f"blocks.{layer - shape.layers}.residual.post", shape) == [f"blocks.{layer}.residual.post"]


def test_a_range_and_a_star_stand_for_layers() -> None:
    assert expand("blocks.1-2.mlp.output", LLAMA) == ["blocks.1.mlp.output", "blocks.2.mlp.output"]
    assert expand("blocks.-2--1.mlp.output", LLAMA) == ["blocks.2.mlp.output", "blocks.3.mlp.output"]
    assert len(expand("blocks.*.residual.pre", LLAMA)) == 4


def test_a_star_stands_for_the_layers_that_have_such_a_site() -> None:
    assert expand("blocks.*.router.logits", DEEPSEEK) == [f"blocks.{layer}.router.logits" for layer in (1, 2, 3)]
    assert expand("blocks.*.mlp.neurons", DEEPSEEK) == ["blocks.0.mlp.neurons"]
    assert expand("blocks.*.attention.probabilities", LINEAR) == ["blocks.3.attention.probabilities"]


@pytest.mark.parametrize(
    ("site", "shape", "expected"),
    [
        ("embeddings", LLAMA, [("channel", 12)]),
        ("blocks.0.attention.q", LLAMA, [("head", 6), ("channel", 2)]),
        ("blocks.0.attention.k", LLAMA, [("kv_head", 2), ("channel", 2)]),
        ("blocks.0.attention.k", GPT2, [("kv_head", 2), ("channel", 4)]),
        ("blocks.0.attention.k", DEEPSEEK, [("kv_head", 3), ("channel", 6)]),
        ("blocks.0.attention.v", DEEPSEEK, [("kv_head", 3), ("channel", 4)]),
        ("blocks.0.attention.heads", DEEPSEEK, [("head", 3), ("channel", 4)]),
        ("blocks.0.attention.probabilities", LLAMA, [("head", 6), ("key", 0)]),
        ("blocks.0.mlp.neurons", LLAMA, [("neuron", 16)]),
        ("blocks.1.router.logits", DEEPSEEK, [("expert", 8)]),
        ("blocks.1.router.experts", DEEPSEEK, [("choice", 2)]),
        ("logits", LLAMA, [("vocabulary", 50)]),
    ],
)
def test_shapes_for_a_token(site: str, shape: ModelShape, expected: list[tuple[str, int]]) -> None:
    (one,) = SitePattern.parse(site).expand(shape)
    assert axes(one, shape) == tuple(Axis(*axis) for axis in expected)


def test_modules_are_named_by_their_path() -> None:
    shape = dataclasses.replace(LLAMA, modules={"model.layers.0.mlp.up_proj": (12, 16), "lm_head": (12, 50)})
    before, after = (SitePattern.parse(f"module:model.layers.0.mlp.up_proj:{end}") for end in ("input", "output"))
    assert str(before) == "module:model.layers.0.mlp.up_proj:input"
    assert axes(before.expand(shape)[0], shape) == (Axis("channel", 12),)
    assert axes(after.expand(shape)[0], shape) == (Axis("channel", 16),)
    assert "did you mean `model.layers.0.mlp.up_proj`?" in refusal("module:model.layers.0.mlp.upproj:input", shape)
    assert "its modules are called like" in refusal("module:zzz:input", shape)
    assert axes(SitePattern.parse("module:anything:input").expand(LLAMA)[0], LLAMA) == (Axis("channel", 0),)


@pytest.mark.parametrize(
    ("text", "shape", "said"),
    [
        ("blocks.3.residual.pots", LLAMA, "did you mean `blocks.3.residual.post`"),
        ("embedings", LLAMA, "did you mean `embeddings`"),
        ("blocks.x.residual.post", LLAMA, "`x` is not a layer"),
        ("blocks.4.residual.post", LLAMA, "layers 0 to 3 (or -4 to -1)"),
        ("blocks.-5.residual.post", LLAMA, "layers 0 to 3 (or -4 to -1)"),
        ("blocks.2-1.residual.post", LLAMA, "ends before it begins"),
        ("blocks.0.router.logits", DEEPSEEK, "only layers 1 to 3 of this model have router.logits"),
        ("blocks.*.router.logits", LLAMA, "this model has no router.logits"),
        ("blocks.1.mlp.neurons", DEEPSEEK, "only layer 0 of this model"),
        ("logits", BERT, "its last site is `blocks.2.residual.post`"),
        ("norm", BERT, "this model has no norm"),
        ("module:a.b", LLAMA, "must be module:PATH:input"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(text: str, shape: ModelShape, said: str) -> None:
    assert said in refusal(text, shape)


@given(st.text(max_size=40))
def test_any_text_is_a_site_or_a_clear_refusal(text: str) -> None:
    with contextlib.suppress(BadRequest):
        assert SitePattern.parse(text).expand(LLAMA)


def test_a_place_that_blocks_do_not_have_is_not_listed() -> None:
    side_by_side = dataclasses.replace(GPT2, absent=("residual.mid",))
    assert Site(Place.RESIDUAL_MID, 0) not in set(all_sites(side_by_side))
    assert "this model has no residual.mid" in refusal("blocks.0.residual.mid", side_by_side)


def test_what_can_be_written_and_what_can_be_read_as_logits() -> None:
    assert not is_writable(Site(Place.ROUTER_EXPERTS, 1))
    assert is_writable(Site(Place.ATTENTION_PROBABILITIES, 1))
    assert [place for place in Place if is_residual(Site(place, 0))] == [
        "embeddings",
        "residual.pre",
        "residual.mid",
        "residual.post",
        "attention.output",
        "mlp.output",
        "norm",
    ]

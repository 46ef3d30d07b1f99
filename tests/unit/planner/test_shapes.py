"""Parameters and caches computed from shapes, against what is published and what was computed by hand."""

import re

import pytest

from terascope.core.errors import ModelNotFound
from terascope.planner import Architecture, find_model, library, published
from terascope.planner.library import Published

MODELS = list(zip(library(), published(), strict=True))
BY_HAND = [pair for pair in MODELS if pair[1].parameters]


def _ids(pair: tuple[Architecture, Published]) -> str:
    return pair[0].name


@pytest.mark.parametrize("pair", BY_HAND, ids=_ids)
def test_parameters_are_those_computed_by_hand(pair: tuple[Architecture, Published]) -> None:
    """Within 0.1 %, or within the rounding of the figure."""
    shapes, said = pair
    assert abs(shapes.parameters / 1e9 - said.parameters) <= max(0.001 * said.parameters, 0.051)
    assert shapes.active / 1e9 == pytest.approx(said.active, rel=0.03)


@pytest.mark.parametrize("pair", BY_HAND, ids=_ids)
def test_the_cache_is_the_one_computed_by_hand(pair: tuple[Architecture, Published]) -> None:
    shapes, said = pair
    assert shapes.cache_bytes(2) == pytest.approx(said.cache_bytes, rel=0.002)
    assert shapes.fixed_bytes(2) == pytest.approx(said.fixed_bytes)


@pytest.mark.parametrize("pair", [p for p in MODELS if p[1].figures], ids=_ids)
def test_parameters_are_the_published_ones_to_their_rounding(pair: tuple[Architecture, Published]) -> None:
    shapes, said = pair
    figure = re.match(r"([\d.]+)(T|B)", said.figures)
    assert figure is not None
    unit = 1e12 if figure[2] == "T" else 1e9
    rounding = 0.5 * 10 ** -len(figure[1].partition(".")[2])
    off = abs(shapes.parameters / unit - float(figure[1]))
    assert said.deviation or off <= rounding * 1.05 or off / float(figure[1]) < 0.005


def test_every_model_has_a_source() -> None:
    assert [one.name for one in published() if len(one.source) < 10] == []


def test_a_model_is_found_by_any_of_its_names() -> None:
    k2 = find_model("moonshotai/Kimi-K2-Instruct")
    assert find_model("kimi-k2") == find_model("KIMI-K2-INSTRUCT") == k2
    assert find_model("nvidia/Kimi-K2.5-NVFP4").native == "nvfp4"
    assert find_model("nvidia/Kimi-K2.5-NVFP4").parameters == find_model("kimi-k2.5").parameters
    assert find_model("ring-1t").name == "inclusionAI/Ring-1T"


def test_an_unknown_model_says_what_is_near() -> None:
    with pytest.raises(ModelNotFound, match=r"knows no model 'kimi-k7'; near are kimi-k"):
        find_model("kimi-k7")


def test_how_many_experts_tokens_reach() -> None:
    experts = find_model("deepseek-v3").feed_forward[-1][0]
    assert experts.hit(0) == 0
    assert experts.hit(1) == pytest.approx(8)
    assert experts.hit(10_000) == pytest.approx(256)
    assert find_model("llama-3.1-8b").feed_forward[0][0].hit(5) == 0


def test_windows_states_and_choices_limit_what_is_kept_and_read() -> None:
    windowed = next(one for one, _ in find_model("gpt-oss-120b").attention if one.window)
    assert (windowed.kept(1000), windowed.read(50), windowed.cache_bytes(2)) == (128, 50, 0)
    sparse = find_model("deepseek-v3.2").attention[0][0]
    assert (sparse.kept(100_000), sparse.read(100_000)) == (100_000, 2048)
    linear = next(one for one, _ in find_model("kimi-k3").attention if one.kind == "linear")
    assert linear.cache_bytes(2) == 0
    assert linear.fixed_bytes(2) == 6586368

"""Pictures show the numbers that they are given, with the tokens' texts, and change nothing globally."""

import sys
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from terascope.client import TraceArray, TracedPrompt
from terascope.client.plots import plot_attention, plot_attribution, plot_logit_lens, shown
from terascope.core.errors import BadRequest

PIECES = ["The", " sky"]
SITE = "blocks.{}.residual.post"


def array(name: str, numbers: Any, axes: tuple[str, ...]) -> TraceArray:
    labels = {axis: PIECES for axis in axes if axis in ("token", "key")}
    return TraceArray.of(name, np.asarray(numbers), axes, labels)


def lens() -> TracedPrompt:
    arrays = {}
    for layer, (ids, logs) in {3: ([[7], [8]], [[-0.1], [-3.0]]), 4: ([[9], [8]], [[-0.5], [-2.0]])}.items():
        for end, numbers in (("tokens", np.array(ids, "i4")), ("log_probabilities", np.array(logs, "f4"))):
            name = f"{SITE.format(layer)}.{end}"
            arrays[name] = array(name, numbers, ("token", "rank"))
    return TracedPrompt("a", (1, 2), tuple(PIECES), arrays=arrays)


def drawn(axes: Axes) -> Any:
    [image] = axes.get_images()
    return np.asarray(image.get_array())


def names(axes: Axes) -> tuple[list[str], list[str]]:
    return [one.get_text() for one in axes.get_xticklabels()], [one.get_text() for one in axes.get_yticklabels()]


def test_the_logit_lens_shows_probabilities_and_texts() -> None:
    axes = plot_logit_lens(lens(), {7: " is", 8: " blue"})
    assert drawn(axes) == pytest.approx(np.exp([[-0.1, -3.0], [-0.5, -2.0]]), abs=1e-6)
    assert [one.get_text() for one in axes.texts] == ["␣is", "␣blue", "9", "␣blue"]
    assert names(axes) == (["The", "␣sky"], ["3", "4"])
    assert axes.get_ylim()[0] < axes.get_ylim()[1]  # layers go up


def test_the_logit_lens_needs_its_captures() -> None:
    with pytest.raises(BadRequest, match="has no arrays"):
        plot_logit_lens(lens(), {}, "blocks.*.mlp.output")


def test_attention_shows_one_head() -> None:
    weights = np.array([[[1, 0], [0.5, 0]], [[0.25, 0.75], [1, 0]]], "f4")
    axes = plot_attention(array("attention", weights, ("token", "head", "key")), 0)
    assert drawn(axes).tolist() == [[1, 0], [0.25, 0.75]]
    assert names(axes) == (["The", "␣sky"], ["The", "␣sky"])
    assert axes.get_title() == "attention, head 0"


@pytest.mark.parametrize(("shape", "head"), [((2, 2, 2), 2), ((2, 2, 2), -1), ((2, 2), 0)])
def test_attention_of_another_shape_is_refused(shape: tuple[int, ...], head: int) -> None:
    with pytest.raises(BadRequest, match="head"):
        plot_attention(TraceArray.of("x", np.zeros(shape)), head)


def test_an_attribution_of_tokens_is_bars() -> None:
    axes = plot_attribution(array("x", [0.5, -0.25], ("token",)), label="towards blue")
    assert [bar.get_height() for bar in axes.patches] == [0.5, -0.25]  # type: ignore[attr-defined]
    assert axes.patches[0].get_facecolor() != axes.patches[1].get_facecolor()
    assert (names(axes)[0], axes.get_ylabel()) == (["The", "␣sky"], "towards blue")


@pytest.mark.parametrize("axes_", [("layer", "token"), ("token", "head")])
def test_an_attribution_of_two_axes_is_a_map_with_tokens_to_the_right(axes_: tuple[str, str]) -> None:
    numbers = np.array([[1.0, -2.0], [0.0, 0.5]])
    axes = plot_attribution(array("x", numbers, axes_))
    assert drawn(axes).tolist() == (numbers if axes_[1] == "token" else numbers.T).tolist()
    assert axes.get_images()[0].get_clim() == (-2.0, 2.0)  # white is zero
    assert axes.get_xlabel() == "token"


def test_an_attribution_of_nothing_but_zeros() -> None:
    assert plot_attribution(array("x", np.zeros((1, 2)), ("layer", "token"))).get_images()[0].get_clim() == (-1, 1)


def test_three_axes_are_too_many() -> None:
    with pytest.raises(BadRequest, match="two axes"):
        plot_attribution(TraceArray.of("x", np.zeros((1, 1, 1))))


def test_it_draws_where_it_is_told_and_changes_nothing_else() -> None:
    before = dict(rcParams)
    figure = Figure()
    axes = figure.add_subplot()
    assert plot_attribution(array("x", [1.0, 2.0], ("token",)), axes=axes) is axes
    plot_logit_lens(lens(), {})
    figure.savefig(BytesIO())
    assert dict(rcParams) == before
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_bfloat16_is_drawn() -> None:
    import torch

    one = TraceArray.of("x", torch.tensor([1.0, -1.0]).to(torch.bfloat16), ("token",))
    assert [bar.get_height() for bar in plot_attribution(one).patches] == [1, -1]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "expected"), [(" a", "␣a"), ("\n", "\\n"), ("\t", "\\t"), ("$x$", r"\$x\$"), ("a" * 20, "a" * 11 + "…")]
)
def test_tokens_are_shown_so_that_one_sees_them(text: str, expected: str) -> None:
    assert shown(text) == expected

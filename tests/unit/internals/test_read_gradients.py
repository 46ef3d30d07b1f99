"""What is differentiated, with respect to what, and how."""

from typing import Any

import pytest

from terascope.internals.plan import (
    Dot,
    Gradient,
    Logit,
    LogProbability,
    Loss,
    Where,
)
from terascope.internals.sites import Place, Site
from terascope.internals.tokens import PROMPT, AllTokens, LastToken, Positions, Slice

from .asking import read, refusal
from .shapes import BERT, DEEPSEEK

EMBEDDINGS = Where(Site(Place.EMBEDDINGS), AllTokens(), PROMPT)


def gradient(**fields: Any) -> Gradient:
    found = read(gradient={"of": {"logit": 3}, "with_respect_to": ["embeddings"]} | fields).row("clean").gradient
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        ({"logit": " Paris"}, Logit(" Paris")),
        ({"logit": 3, "minus": " Rome", "at": -2}, Logit(3, " Rome", Positions((-2,)))),
        ({"log_probability": 0}, LogProbability(0, LastToken())),
        ({"loss": "2:"}, Loss(Slice(2))),
    ],
)
def test_scalars(of: dict[str, Any], expected: object) -> None:
    assert gradient(of=of).of == expected


def test_a_dot_product_with_what_is_at_a_site() -> None:
    of = gradient(of={"dot": {"site": "blocks.0.attention.heads", "heads": 1, "direction": [0.5, 2.0]}}).of
    assert isinstance(of, Dot)
    assert of.where == Where(Site(Place.ATTENTION_HEADS, 0), LastToken(), PROMPT, (1,))
    assert of.direction.numbers() == [0.5, 2.0]


def test_sites_with_parts_of_them() -> None:
    target = {"site": "blocks.0-1.attention.q", "tokens": -1, "heads": [0], "units": [1]}
    assert gradient(with_respect_to=["embeddings", target]).sites == (
        EMBEDDINGS,
        *(Where(Site(Place.ATTENTION_Q, layer), Positions((-1,)), PROMPT, (0,), (1,)) for layer in (0, 1)),
    )


@pytest.mark.parametrize(
    ("fields", "passes"),
    [
        ({}, 1),
        ({"method": "input_times_gradient"}, 1),
        ({"method": "integrated_gradients"}, 20),
        ({"method": "integrated_gradients", "steps": 3, "with_respect_to": ["embeddings", "norm"]}, 6),
        ({"method": "attribution_patching", "from": "other"}, 1),
        ({"method": "direct_logit"}, 0),
    ],
)
def test_methods_and_how_often_they_pass(fields: dict[str, Any], passes: int) -> None:
    assert gradient(**fields).passes == passes


def test_what_is_compared_is_computed_first() -> None:
    plan = read(
        gradient={
            "of": {"logit": 3},
            "with_respect_to": ["norm"],
            "method": "attribution_patching",
            "from": "other",
        }
    )
    assert plan.row("clean").sources == {"other"}
    assert plan.row("other").gradient is None
    assert [str(where.site) for where in plan.taken_from("other")] == ["norm"]


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"of": {"logit": 50}}, "of.logit", "the last is 49"),
        ({"of": {"logit": 0, "minus": 50}}, "of.minus", "the last is 49"),
        ({"of": {"loss": "all", "minus": 1}}, "of.minus", "`minus` goes with `logit`"),
        ({"of": {"dot": {"site": "blocks.*.mlp.input", "direction": [1.0]}}}, "of.dot.site", "this is 4"),
        ({"of": {"dot": {"site": "norm", "direction": [1.0]}}}, "of.dot.direction", "it must be [12]"),
        ({"of": {"dot": {"site": "norm", "direction": "d"}}}, "of.dot.direction", "there is no array `d`"),
        ({"with_respect_to": ["norm", "embedings"]}, "with_respect_to[1]", "did you mean `embeddings`"),
        ({"with_respect_to": [{"site": "nrm"}]}, "with_respect_to[0].site", "did you mean `norm`"),
        ({"with_respect_to": ["norm", "norm"]}, "with_respect_to[1]", "`norm` is there twice"),
        ({"steps": 3}, "steps", "is of `integrated_gradients`"),
        ({"from": "other"}, "from", "is of `attribution_patching`"),
        ({"method": "attribution_patching"}, "from", "needs `from`"),
        ({"method": "attribution_patching", "from": "third"}, "from", "there is no prompt `third`"),
        ({"method": "direct_logit", "of": {"loss": "all"}}, "of", "is of a `logit`"),
        ({"method": "direct_logit", "with_respect_to": ["norm"]}, "with_respect_to", "`norm` is not"),
        ({"in": "nobody"}, "in", "there is no prompt `nobody`"),
    ],
)
def test_what_cannot_be_differentiated(fields: dict[str, Any], param: str, said: str) -> None:
    error = refusal(gradient={"of": {"logit": 3}, "with_respect_to": ["embeddings"]} | fields)
    assert error.param == f"gradient.{param}"
    assert said in error.message


def test_numbers_of_experts_have_no_gradient() -> None:
    wanted = {"of": {"logit": 3}, "with_respect_to": ["blocks.1.router.experts"]}
    assert "whole numbers" in refusal(gradient=wanted, shape=DEEPSEEK).message


def test_an_encoder_has_directions_and_no_logits() -> None:
    dot = {"dot": {"site": "blocks.2.residual.post", "direction": [1.0] * 8}}
    assert read(gradient={"of": dot, "with_respect_to": ["embeddings"]}, shape=BERT).rows[0].needs_gradient
    wanted = {"of": {"logit": 3}, "with_respect_to": ["embeddings"]}
    assert "has no logits" in refusal(gradient=wanted, shape=BERT).message

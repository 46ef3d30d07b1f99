"""Which arrays a plan gives, before anything is computed."""

from typing import Any

import pytest

from terascope.internals.arrays import DType
from terascope.internals.outputs import capture_outputs, gradient_outputs
from terascope.internals.packing import Spec
from terascope.internals.shape import ModelShape

from .asking import read
from .shapes import DEEPSEEK, LLAMA

TOKENS, KEYS = 5, 9
PROBABILITIES = "blocks.0.attention.probabilities"


def outputs(operation: dict[str, Any], shape: ModelShape = LLAMA) -> list[Spec]:
    (capture,) = read(operation, shape=shape).rows[0].captures
    return list(capture_outputs(capture, shape, TOKENS, KEYS, DType.BF16))


@pytest.mark.parametrize(
    ("operation", "shape", "axes"),
    [
        ({"capture": "norm"}, (5, 12), ("token", "channel")),
        ({"capture": "norm", "units": [1, 2]}, (5, 2), ("token", "channel")),
        ({"capture": "blocks.0.attention.k"}, (5, 2, 2), ("token", "kv_head", "channel")),
        ({"capture": "blocks.0.attention.heads", "heads": [0, 3, 4]}, (5, 3, 2), ("token", "head", "channel")),
        ({"capture": PROBABILITIES}, (5, 6, 9), ("token", "head", "key")),
    ],
)
def test_whole_captures_have_the_models_type(
    operation: dict[str, Any], shape: tuple[int, ...], axes: tuple[str, ...]
) -> None:
    assert outputs(operation) == [Spec(operation["capture"], DType.BF16, shape, axes)]


@pytest.mark.parametrize(
    ("site", "reduce", "shape", "axes"),
    [
        ("norm", "mean", (12,), ("channel",)),
        ("norm", {"max": "units"}, (5,), ("token",)),
        ("norm", "norm", (5,), ("token",)),
        ("blocks.0.attention.q", {"mean": "heads"}, (5, 2), ("token", "channel")),
        (PROBABILITIES, {"mean": "heads"}, (5, 9), ("token", "key")),
        ("norm", {"project": {"directions": [[1.0] * 12] * 3}}, (5, 3), ("token", "direction")),
    ],
)
def test_reduced_captures_are_floats(site: str, reduce: Any, shape: tuple[int, ...], axes: tuple[str, ...]) -> None:
    assert outputs({"capture": site, "name": "x", "reduce": reduce}) == [Spec("x", DType.F32, shape, axes)]


@pytest.mark.parametrize(
    ("reduce", "values", "numbers"),
    [
        ({"top_k": 3}, "values", "indices"),
        ({"logit_lens": 3}, "log_probabilities", "tokens"),
        ({"tuned_lens": {"k": 3, "weight": [[0.0] * 12] * 12}}, "log_probabilities", "tokens"),
        ({"encode": {"k": 3, "autoencoder": {"encoder": [[1.0] * 4] * 12}}}, "activations", "features"),
    ],
)
def test_ranked_reductions_are_values_and_numbers(reduce: Any, values: str, numbers: str) -> None:
    assert outputs({"capture": "norm", "reduce": reduce}) == [
        Spec(f"norm.{values}", DType.F32, (5, 3), ("token", "rank")),
        Spec(f"norm.{numbers}", DType.I32, (5, 3), ("token", "rank")),
    ]


def test_chosen_experts_are_whole_numbers() -> None:
    (one,) = outputs({"capture": "blocks.1.router.experts"}, DEEPSEEK)
    assert (one.dtype, one.shape, one.axes) == (DType.I32, (5, 2), ("token", "choice"))


@pytest.mark.parametrize(("method", "summed"), [("gradient", False), ("integrated_gradients", True)])
def test_gradients_have_the_sites_shape_or_its_sums(method: str, summed: bool) -> None:
    wanted = {"of": {"logit": 3}, "with_respect_to": ["embeddings", "blocks.0.attention.q"], "method": method}
    gradient = read(gradient=wanted).rows[0].gradient
    assert gradient is not None
    value, embeddings, queries = gradient_outputs(gradient, LLAMA, [5, 2], KEYS, DType.F16)
    assert value == Spec("gradient/value", DType.F32, ())
    assert embeddings.name == "gradient/embeddings"
    assert (embeddings.shape, queries.shape) == (((5,), (2, 6)) if summed else ((5, 12), (2, 6, 2)))
    assert queries.dtype is (DType.F32 if summed else DType.F16)

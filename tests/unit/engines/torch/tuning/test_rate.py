"""The learning rate rises, then falls as the schedule says."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.core.tuning import Hyperparameters
from terascope.engines.torch.tuning.rate import rate

USUAL = Hyperparameters(learning_rate=1.0, warmup_ratio=0.2)


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        ("constant", [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        ("cosine", [0.5, 1, 1, 0.9619, 0.8536, 0.6913, 0.5, 0.3087, 0.1464, 0.0381]),
    ],
)
def test_schedules(schedule: str, wanted: list[float]) -> None:
    settings = replace(USUAL, schedule=schedule)
    assert [rate(step, 10, settings) for step in range(10)] == pytest.approx(wanted, abs=1e-4)


@given(st.integers(1, 200), st.floats(0, 1), st.sampled_from(["constant", "linear", "cosine"]))
def test_it_is_above_0_and_at_most_what_was_set(steps: int, warmup: float, schedule: str) -> None:
    settings = replace(USUAL, warmup_ratio=warmup, schedule=schedule)
    found = [rate(step, steps, settings) for step in range(steps)]
    assert all(0 < one <= 1 for one in found)

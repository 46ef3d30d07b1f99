"""What only a GPU does: the kernel for all rows of a step, and steps recorded as graphs. Skipped where there is none.

The other tests of this folder use a GPU too where there is one: the worker chooses it.
"""

from typing import Any

import pytest
import torch

from terascope.engines.torch import flash
from terascope.engines.torch.packed import PackedModel, prepare

from .driver import Driver, plan
from .test_packed import CONFIGS, PLAN, ROWS, _expected, _model, _run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that PyTorch can use")
RECORDED = ("llama", "qwen3", "mistral with a window", "gemma2 with caps and windows", "gpt2")
ERROR = {torch.float32: 1e-4, torch.bfloat16: 0.1}


def _on_gpu(name: str, dtype: torch.dtype) -> PackedModel:
    model = _model(CONFIGS[name]).to("cuda", dtype)
    prepare(model)
    return PackedModel(model, 2000)


@pytest.mark.parametrize("dtype", ERROR, ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_models_compute_what_they_compute_on_a_cpu(name: str, dtype: torch.dtype) -> None:
    """Prompts in parts, several at once, beside rows that answer; then one row alone, in recorded steps."""
    expected = _expected(CONFIGS[name], ROWS)  # first: models of one configuration share their choice of attention
    packed = _on_gpu(name, dtype)
    for right, ours in zip(expected, _run(packed, ROWS, PLAN), strict=True):
        assert float((ours.float().cpu() - right).norm() / right.norm()) < ERROR[dtype]
    assert packed._shapes is not None
    assert packed._shapes._known
    if name in RECORDED:
        assert packed._shapes.recording


def test_the_kernel_for_all_rows_is_used() -> None:
    calls: list[flash.Rows] = []

    def noted(*given: Any) -> torch.Tensor:
        calls.append(given[3])
        return flash.attend(*given)

    packed = _on_gpu("llama", torch.bfloat16)
    packed._attention.kernel = noted
    _run(packed, ROWS, PLAN)
    assert any(len(rows.keys) == 4 for rows in calls)


def test_a_recorded_step_is_repeated_with_other_rows() -> None:
    """Rows of other lengths and blocks in the shape that was recorded: what they get is what they get unrecorded."""
    packed = _on_gpu("llama", torch.float32)
    assert packed._shapes is not None
    first = _run(packed, ROWS[:1], [[(0, 20)], *[[(0, 1)]] * 20])[0]
    made = len(packed._shapes._known)
    second = _run(packed, ROWS[2:], [[(0, 10)], *[[(0, 1)]] * 13])[0]
    assert len(packed._shapes._known) == made
    for right, ours in zip(_expected(CONFIGS["llama"], [ROWS[0], ROWS[2]]), (first, second), strict=True):
        torch.testing.assert_close(ours.cpu(), right, atol=1e-3, rtol=1e-3)


def test_answers_beside_others_are_those_alone(tiny: Any) -> None:
    """Float32: greedy and drawn answers of rows that share recorded steps, and join and leave."""
    driver = Driver(tiny)
    plans = [plan([5 + row, 9, 2, 7][: 1 + row % 4], 6 + row, seed=None if row % 2 else row) for row in range(9)]
    alone = [driver.alone(one).tokens() for one in plans]
    together = [driver.ask(one) for one in plans]
    driver.finish()
    assert [one.tokens() for one in together] == alone

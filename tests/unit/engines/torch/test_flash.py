"""All rows of a step in one kernel: who stands where. The kernel itself needs a GPU (test_cuda.py)."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from terascope.engines.torch import flash
from terascope.engines.torch.layout import Span

from .test_packed import CONFIGS, PLAN, ROWS, _expected, _packed, _run

CPU = torch.device("cpu")


def row_by_row(query: Tensor, keys: Tensor, values: Tensor, rows: flash.Rows, scale: float, window: int) -> Tensor:
    """What the kernel computes, by its documentation: [heads, tokens, size] in, [tokens, heads, size] out."""
    found = []
    bounds = zip(rows.queries[:-1], rows.queries[1:], rows.keys[:-1], rows.keys[1:], strict=True)
    for first, last, key, end in bounds:
        asked, seen = torch.arange(end - key)[-(last - first) :, None], torch.arange(end - key)
        mask = (seen <= asked) & ((seen > asked - window) if window else True)
        k, v = keys[None, :, key:end], values[None, :, key:end]
        one = scaled_dot_product_attention(
            query[None, :, first:last], k, v, attn_mask=mask, scale=scale, enable_gqa=True
        )
        found.append(one[0].transpose(0, 1))
    return torch.cat(found)


def test_where_rows_begin_and_end() -> None:
    rows = flash.Rows.of([Span(0, 3, [4]), Span(17, 1, [2, 9]), Span(15, 2, [7, 1])], CPU)
    assert rows.queries.tolist() == [0, 3, 4, 6]
    assert rows.keys.tolist() == [0, 3, 21, 38]
    assert rows.places.tolist() == [*range(64, 67), *range(32, 48), 144, 145, *range(112, 128), 16]
    assert (rows.longest_queries, rows.longest_keys) == (3, 18)
    assert (rows.queries.dtype, rows.keys.dtype) == (torch.int32, torch.int32)


@pytest.mark.parametrize("name", CONFIGS)
def test_models_compute_the_same(name: str) -> None:
    calls: list[int] = []

    def counted(*given: Any) -> Tensor:
        calls.append(1)
        return row_by_row(*given)

    expected = _expected(CONFIGS[name], ROWS)
    packed = _packed(CONFIGS[name])
    packed._together, packed._attention.kernel = True, counted
    for right, ours in zip(expected, _run(packed, ROWS, PLAN), strict=True):
        torch.testing.assert_close(ours, right, atol=2e-4, rtol=1e-4)
    assert bool(calls) is (name not in ("gemma2 with caps and windows", "gpt-oss with sinks"))


def test_where_there_is_a_kernel() -> None:
    assert not flash.available(CPU, torch.bfloat16)
    assert not flash.available(torch.device("cuda"), torch.float32)
    query, value = torch.zeros(1, 4, 2, 64), torch.zeros(1, 2, 2, 64)
    assert flash.takes(query, value)
    assert not flash.takes(query, value[..., :32])
    assert not flash.takes(torch.zeros(1, 4, 2, 512), torch.zeros(1, 4, 2, 512))

"""Steps of fixed shape compute what other steps do. What a GPU adds, recording them: test_cuda.py."""

import gc
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from terascope.engines.torch import graphs
from terascope.engines.torch.cache import blocks_for
from terascope.engines.torch.graphs import Shapes
from terascope.engines.torch.layout import Layout, Span
from terascope.engines.torch.packed import PackedModel, Step

from .test_packed import CONFIGS, _packed

KINDS = ("llama", "gemma2 with caps and windows", "gpt-oss with sinks", "gpt2")


def _shapes(packed: PackedModel) -> Shapes:
    return Shapes(packed._of_singles, packed.device, packed.pool.blocks + 1)


@pytest.fixture(scope="module", params=KINDS)
def packed(request: pytest.FixtureRequest) -> PackedModel:
    return _packed(CONFIGS[request.param])


@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 90), min_size=1, max_size=9))
def test_rows_of_any_number_and_length(packed: PackedModel, lengths: list[int]) -> None:
    shapes = _shapes(packed)
    blocks = [packed.pool.take(blocks_for(length + 1)) for length in lengths]
    for row, (length, own) in enumerate(zip(lengths, blocks, strict=True)):
        packed.run(Step([(7 * row + i) % 100 for i in range(length)], [Span(0, length, own)], []))
    spans = [Span(length, 1, own) for length, own in zip(lengths, blocks, strict=True)]
    tokens = [(31 * row + 5) % 100 for row in range(len(spans))]
    expected = packed.run(Step(tokens, spans, range(len(spans))))
    with torch.inference_mode():
        found = shapes.run(tokens, spans)
        again = shapes.run(tokens, spans)
    for own in blocks:
        packed.pool.give_back(own)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)
    assert torch.equal(found, again)


def test_a_shape_is_made_once() -> None:
    packed = _packed(CONFIGS["llama"])
    shapes = _shapes(packed)
    blocks = packed.pool.take(19)
    with torch.inference_mode():
        for length in range(3, 300):
            shapes.run([length % 100], [Span(length, 1, blocks)])
    assert list(shapes._known) == [(1, 8), (1, 12), (1, 16), (1, 24)]
    assert not shapes.recording


def test_what_a_step_reads_is_kept_with_its_shape() -> None:
    """A graph knows addresses only: what it reads must not go when the code that it was recorded from does."""
    packed = _packed(CONFIGS["llama"])
    read: list[weakref.ref[torch.Tensor]] = []

    def forward(tokens: torch.Tensor, layout: Layout) -> torch.Tensor:
        read.extend(weakref.ref(one) for one in (layout.singles[0].index, tokens._base) if one is not None)
        return packed._of_singles(tokens, layout)

    shapes = Shapes(forward, packed.device, packed.pool.blocks + 1)
    blocks = packed.pool.take(1)
    with torch.inference_mode(mode=False):
        shapes.run([5], [Span(0, 1, blocks)])
    (shape,) = shapes._known.values()
    shape.repeat = lambda: torch.zeros(1)  # as one that was recorded
    gc.collect()
    assert len(read) == 2
    assert all(one() is not None for one in read)


def test_as_many_shapes_are_kept_as_told() -> None:
    packed = _packed(CONFIGS["llama"])
    shapes = Shapes(packed._of_singles, packed.device, packed.pool.blocks + 1, most=2)
    blocks = [packed.pool.take(1) for _ in range(4)]
    with torch.inference_mode():
        for rows in (1, 2, 1, 3):
            shapes.run([5] * rows, [Span(0, 1, own) for own in blocks[:rows]])
    assert list(shapes._known) == [(1, 8), (3, 8)]


def test_sizes() -> None:
    assert [graphs._above(n) for n in (1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 40, 49, 128)] == [
        1, 2, 3, 4, 6, 6, 8, 12, 12, 16, 48, 64, 128,
    ]  # fmt: skip

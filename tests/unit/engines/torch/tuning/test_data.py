"""Which lines are trained on and when; and that a file is never read as a whole."""

import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.core.errors import BadRequest
from terascope.core.tuning import TuningMethod
from terascope.engines.torch.tuning.base import Base
from terascope.engines.torch.tuning.data import Lines, Order, batches
from terascope.engines.torch.tuning.examples import ExampleReader

from .work import chats, write_lines


def silent(count: int) -> None:
    """A report to nobody."""


@given(st.integers(2, 60), st.floats(0, 0.5), st.integers(1, 9), st.integers(-(2**63), 2**63 - 1))
def test_each_epoch_has_each_trained_line_once(lines: int, share: float, size: int, seed: int) -> None:
    order = Order(lines, share, size, seed)
    epochs = [[order.batch(epoch * order.steps + step) for step in range(order.steps)] for epoch in range(2)]
    for epoch in epochs:
        assert sorted([*(one for batch in epoch for one in batch), *order.held_out]) == list(range(lines))
        assert all(len(batch) <= size for batch in epoch)
    again = Order(lines, share, size, seed)
    assert again.batch(order.steps + order.steps // 2) == epochs[1][order.steps // 2]


def test_other_seeds_have_other_orders() -> None:
    assert Order(50, 0.1, 10, 1).batch(0) != Order(50, 0.1, 10, 2).batch(0)
    order = Order(50, 0.1, 50, 1)
    assert order.batch(0) != order.batch(1)


def test_lines_are_read_by_place(base: Base, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "t", chats(5))
    path.write_text(path.read_text().replace("\n", "\n\n", 2))
    with Lines(path, "training_file", TuningMethod.LORA, ExampleReader(base)) as lines:
        lines.check(silent)
        assert len(lines) == 5
        assert [base.vocabulary.decode(lines[i].tokens).split()[1] for i in (3, 0)] == ["hen", "cat"]
        assert lines.tokens == sum(len(lines[i]) for i in range(5))


def test_the_bad_line_is_named(base: Base, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "t", chats(300))
    text = path.read_text().splitlines()
    text[256] = "{"
    path.write_text("\n".join(text))
    lines = Lines(path, "training_file", TuningMethod.LORA, ExampleReader(base))
    with lines, pytest.raises(BadRequest, match="training_file, line 257: it is not JSON"):
        lines.check(silent)


def test_no_line_at_all(base: Base, tmp_path: Path) -> None:
    (tmp_path / "t").write_text("\n \n")
    lines = Lines(tmp_path / "t", "training_file", TuningMethod.LORA, ExampleReader(base))
    with lines, pytest.raises(BadRequest, match="has no lines"):
        lines.check(silent)


def test_memory_does_not_grow_with_the_file(base: Base, tmp_path: Path) -> None:
    """20,000 bytes of each line are of no use to training: they must not stay in memory."""
    filler = {"note": "x" * 20_000}
    path = write_lines(tmp_path / "t", ({**one, **filler} for one in chats(400)))
    assert path.stat().st_size > 8_000_000
    with Lines(path, "training_file", TuningMethod.LORA, ExampleReader(base)) as lines:
        tracemalloc.start()
        lines.check(silent)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert most < 2_000_000


def test_parts_have_at_most_so_many_tokens(base: Base, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "t", [{"prompt": "a " * n, "completion": "b"} for n in range(1, 30)])
    with Lines(path, "training_file", TuningMethod.LORA, ExampleReader(base)) as lines:
        lines.check(silent)
        parts = list(batches(lines, range(29), 50))
        assert sum(map(len, parts)) == 29
        assert all(len(part) == 1 or len(part) * max(map(len, part)) <= 50 for part in parts)
        assert json.dumps(lines.digest)

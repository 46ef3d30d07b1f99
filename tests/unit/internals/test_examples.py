"""The plans that the documentation shows can be run."""

import re
from pathlib import Path

import pytest

from terascope.internals.reading import read_plan
from terascope.internals.shape import ModelShape
from terascope.protocol.parse import parse
from terascope.protocol.traces import TraceRequest

DOCS = Path(__file__).parents[3] / "docs"
SHAPE = ModelShape(layers=30, width=576, heads=9, head_width=64, vocabulary=49152, neurons=1536, kv_heads=3)


@pytest.mark.parametrize("page", ["reference/plans.md", "explanation/internals.md"])
def test_plans_of_the_pages_are_plans(page: str) -> None:
    blocks = re.findall(r"```json\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        assert read_plan(parse(TraceRequest, block.encode()), SHAPE).rows

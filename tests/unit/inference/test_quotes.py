"""What an engine says that a trace takes, and what that costs."""

from dataclasses import asdict
from typing import Any

import orjson
import pytest

from terascope.core.prices import Price
from terascope.inference.quotes import cost_in, priced
from terascope.internals.limits import Cost

COST = Cost(prompts=2, prompt_tokens=100, output_tokens=10, captured_bytes=8192)


def test_a_cost_is_read_and_priced() -> None:
    said = {"id": "req_1", "estimate": asdict(COST) | {"seconds": 0.5, "more": [1]}}
    assert cost_in(said) == COST
    told = orjson.loads(priced(said, Price(2, 7)) or b"")
    assert told["id"] == "req_1"
    assert told["estimate"] == said["estimate"] | {"service_units": (200 + 70 + 2) / 1e6}  # type: ignore[operator]


@pytest.mark.parametrize(
    "said",
    [
        {},
        [],
        None,
        {"estimate": None},
        {"estimate": asdict(COST) | {"prompts": -1}},
        {"estimate": asdict(COST) | {"prompts": 1.5}},
        {"estimate": asdict(COST) | {"captured_bytes": 1 << 53}},
        {"estimate": asdict(COST) | {"captured_bytes": True}},
    ],
)
def test_what_is_no_cost_is_none(said: Any) -> None:
    assert cost_in(said) is None
    assert priced(said, Price(1, 1)) is None

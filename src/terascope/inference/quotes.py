"""What a trace will cost, as its engine says before it runs; and what that is in service units."""

from dataclasses import fields
from typing import Any

import orjson

from terascope.core.prices import Price, units
from terascope.internals.limits import Cost


def cost_in(said: object) -> Cost | None:
    """The cost in the answer to a dry run; None where the engine says none, or one that cannot be."""
    estimate = said.get("estimate") if isinstance(said, dict) else None
    if not isinstance(estimate, dict):
        return None
    told = {one.name: estimate.get(one.name, 0) for one in fields(Cost)}
    return Cost(**told) if all(type(one) is int and 0 <= one < 1 << 53 for one in told.values()) else None


def priced(said: Any, price: Price) -> bytes | None:
    """The answer to a dry run with what it costs at `price`; None where it names no cost."""
    cost = cost_in(said)
    if cost is None:
        return None
    return orjson.dumps(said | {"estimate": said["estimate"] | {"service_units": units(cost.micro(price))}})

"""Requests as people write them, and the plans they become."""

from typing import Any

import orjson
import pytest

from terascope.core.errors import BadRequest
from terascope.internals.plan import TracePlan
from terascope.internals.reading import read_plan
from terascope.internals.shape import ModelShape
from terascope.protocol.parse import parse
from terascope.protocol.traces import TraceRequest

from .shapes import LLAMA

TWO = [{"name": "clean", "text": "The Eiffel Tower is in"}, {"name": "other", "text": "The Colosseum is in"}]


def request(**fields: Any) -> TraceRequest:
    """What arrives, by way of its bytes."""
    return parse(TraceRequest, orjson.dumps({"model": "tiny", "prompts": TWO} | fields))


def read(*operations: dict[str, Any], shape: ModelShape = LLAMA, **fields: Any) -> TracePlan:
    """The plan of a request with two prompts, `clean` and `other`."""
    asked = request(operations=list(operations), **fields)
    return read_plan(asked, shape)


def refusal(*operations: dict[str, Any], shape: ModelShape = LLAMA, **fields: Any) -> BadRequest:
    """Why there is no plan. Its message begins with the field."""
    with pytest.raises(BadRequest) as caught:
        read(*operations, shape=shape, **fields)
    error = caught.value
    assert error.message.startswith(error.param or "body")
    return error

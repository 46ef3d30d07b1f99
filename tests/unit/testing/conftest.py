"""What is here runs on both event loops: the gateway's is uvloop, a program's or a notebook's may be asyncio's."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

_BOTH = ("test_faults.py",)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if item.path.name in _BOTH:
        factories["uvloop"] = uvloop.new_event_loop
    return factories

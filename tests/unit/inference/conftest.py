"""Patience runs on a loop whose time is simulated; all else on the gateway's."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

from terascope.testing.clock import SimulatedLoop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.path.name == "test_patience.py":
        return {"simulated": SimulatedLoop}
    return {"uvloop": uvloop.new_event_loop}

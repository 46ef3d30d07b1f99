"""Whole gateways, for tests that look at them from outside."""

from collections.abc import Iterator

import httpx
import pytest

from terascope.testing.gateway import Served, running_gateway


@pytest.fixture(scope="session")
def echo() -> Iterator[Served]:
    """A gateway with the echo engine, shared by all tests that leave it as it was."""
    with running_gateway() as served:
        yield served


@pytest.fixture
def http(echo: Served) -> Iterator[httpx.Client]:
    """An HTTP client with an operator's key."""
    with httpx.Client(base_url=echo.url, headers=echo.headers, timeout=30) as client:
        yield client

"""A gateway with the echo engine, and clients with and without a key."""

from collections.abc import Iterator

import httpx
import pytest

from terascope.testing.gateway import Served, running_gateway


@pytest.fixture(scope="module")
def gateway() -> Iterator[Served]:
    """A gateway for the tests of one module."""
    with running_gateway() as served:
        yield served


@pytest.fixture
def http(gateway: Served) -> Iterator[httpx.Client]:
    """A client with an operator's key."""
    with httpx.Client(base_url=gateway.url, headers=gateway.headers, timeout=30) as client:
        yield client


@pytest.fixture
def stranger(gateway: Served) -> Iterator[httpx.Client]:
    """A client without a key."""
    with httpx.Client(base_url=gateway.url, timeout=30) as client:
        yield client

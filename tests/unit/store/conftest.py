"""A database of its own for every test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from terascope.store.database import Database, sqlite_url


@pytest.fixture(params=["process", "full"])
async def database(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    """With the writer in the event loop, and with the one in a thread."""
    opened = await Database.open(sqlite_url(tmp_path / "test.db"), durability=request.param)
    yield opened
    await opened.aclose()

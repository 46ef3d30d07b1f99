"""A database of its own for every test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from terascope.store.database import Database, sqlite_url


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await Database.open(sqlite_url(tmp_path / "test.db"))
    yield opened
    await opened.aclose()

"""A database of its own for every test, on every kind of database and with every kind of writer."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import get_args

import pytest

from terascope.store.database import Database, Durability
from terascope.testing.databases import new_sqlite
from terascope.testing.postgres import PostgresCluster

KINDS = ("sqlite", "sqlite, full", "postgresql")
"""With the writer in the event loop, in a thread, and on a server."""


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Which kind of database the test runs on."""
    return str(request.param)


@pytest.fixture
def durability(kind: str) -> Durability:
    """The durability of that kind."""
    return get_args(Durability)[kind.endswith("full")]  # type: ignore[no-any-return]


@pytest.fixture
def url(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a database with every table in it, and nothing else, as the configuration has it."""
    if kind != "postgresql":
        yield new_sqlite(tmp_path / "test.db")
        return
    cluster: PostgresCluster = request.getfixturevalue("postgres")
    name = cluster.create_migrated()
    yield cluster.url(name)
    cluster.drop(name)


@pytest.fixture
async def database(url: str, durability: Durability) -> AsyncIterator[Database]:
    """The same, opened."""
    opened = await Database.open(url, durability=durability)
    yield opened
    await opened.aclose()

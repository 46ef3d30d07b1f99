"""`kill -9` of the gateway at random points of a load: nothing lost, nothing charged twice, never overspent."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from terascope.store.database import sqlite_url
from terascope.testing.kills import CLIENTS, killed
from terascope.testing.postgres import PostgresCluster

KILLS = 10
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield sqlite_url(tmp_path / "ledger.db")
        return
    cluster: PostgresCluster = request.getfixturevalue("postgres")
    name = cluster.create()
    yield cluster.url(name)
    cluster.drop(name)


async def test_nothing_is_lost_doubled_or_overspent(tmp_path: Path, url: str) -> None:
    found = await killed(tmp_path, url, kills=KILLS, chance=random.Random(11))
    assert found.clean, found
    assert len(found.completed) > KILLS * CLIENTS

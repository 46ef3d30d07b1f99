"""What past starts tell of the next."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from terascope.fleet.deployed import Deployed, Programs, prepare
from terascope.fleet.launchers.registry import all_launchers
from terascope.fleet.reconciler import Limits
from terascope.fleet.starts import Starts
from terascope.store.database import Database
from terascope.store.starts import KEPT_STARTS, StartStore
from terascope.testing.clock import ManualClock
from terascope.testing.databases import new_sqlite
from terascope.testing.small_engine import small_deployment, small_kinds


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.open(new_sqlite(tmp_path / "terascope.db"))
    yield database
    await database.aclose()


def _deployed(name: str = "small") -> Deployed:
    [one] = prepare([small_deployment(name)], small_kinds, all_launchers(ManualClock()), Limits(), Programs())
    return one


async def _filled(database: Database, clock: ManualClock, *loads: float, queue_s: float = 0.0) -> Starts:
    starts = Starts(StartStore(database), clock)
    for number, load_s in enumerate(loads):
        clock.advance(1.0)
        await starts.add(f"rep_{number}", _deployed(), queue_s, load_s)
    return starts


async def test_the_median_of_those_that_took_longer(database: Database) -> None:
    starts = await _filled(database, ManualClock(), 10.0, 20.0, 60.0)
    assert starts.left_s(_deployed()) == 20.0
    assert starts.left_s(_deployed(), 0.0, 5.0) == 15.0
    assert starts.left_s(_deployed(), 0.0, 15.0) == 25.0  # (5 + 45) / 2
    assert starts.left_s(_deployed(), 0.0, 60.0) is None, "none took longer: nothing tells"
    assert starts.left_s(_deployed("other")) is None


async def test_a_queue_counts_until_its_program_begins(database: Database) -> None:
    starts = await _filled(database, ManualClock(), 10.0, queue_s=100.0)
    assert starts.left_s(_deployed()) == 110.0
    assert starts.left_s(_deployed(), 30.0) == 80.0
    assert starts.left_s(_deployed(), 30.0, 4.0) == 6.0


async def test_the_last_ones_outlive_the_gateway(database: Database) -> None:
    await _filled(database, ManualClock(), *[1.0] * 10, *[50.0] * KEPT_STARTS)
    later = Starts(StartStore(database), ManualClock())
    await later.read()
    assert later.left_s(_deployed()) == 50.0
    assert len(await StartStore(database).all()) == KEPT_STARTS

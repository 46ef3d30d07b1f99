"""A whole fleet for a test, and waiting for what happens in it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from terascope.core.clock import Clock
from terascope.fleet.deployed import EngineKinds, Programs
from terascope.fleet.fleet import Fleet
from terascope.fleet.launchers.contract import Launcher
from terascope.fleet.launchers.registry import all_launchers
from terascope.fleet.reconciler import Limits
from terascope.fleet.supervisor import Verify, no_check
from terascope.store.database import Database
from terascope.testing.databases import new_sqlite
from terascope.testing.small_engine import small_kinds


@asynccontextmanager
async def running_fleet(
    data_dir: Path,
    clock: Clock,
    *,
    launchers: Mapping[str, Launcher] | None = None,
    engine_kind: EngineKinds = small_kinds,
    verify: Verify = no_check,
    limits: Limits | None = None,
    programs: Programs | None = None,
) -> AsyncIterator[Fleet]:
    """A fleet with a database of its own in `data_dir`, not started; closed in the end."""
    database = await Database.open(new_sqlite(data_dir / "terascope.db"))
    fleet = Fleet(
        database,
        clock,
        all_launchers(clock) if launchers is None else launchers,
        data_dir,
        engine_kind=engine_kind,
        verify=verify,
        limits=limits,
        programs=programs,
    )
    try:
        yield fleet
    finally:
        await fleet.aclose()
        await database.aclose()


async def until(fleet: Fleet, condition: Callable[[], object]) -> None:
    """Return once `condition` holds; it is looked at after every change in the fleet."""
    changed = asyncio.Event()
    end = fleet.listen(lambda row, message: changed.set())
    try:
        while not condition():
            changed.clear()
            waits = [asyncio.ensure_future(fleet.wait_for_change(model)) for model in fleet.served()]
            waits.append(asyncio.ensure_future(_wait(changed)))
            _, others = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for other in others:
                other.cancel()
            await asyncio.gather(*others, return_exceptions=True)
    finally:
        end()


async def _wait(event: asyncio.Event) -> None:
    await event.wait()

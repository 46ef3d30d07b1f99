"""Changes are committed together, and one that fails harms no other."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, func, insert, select
from sqlalchemy.exc import IntegrityError

from terascope.store.database import Database, Durability, sqlite_url
from terascope.store.tables import aliases
from terascope.store.writer import LoopWriter
from terascope.testing.postgres import PostgresCluster


def row(name: str) -> dict[str, Any]:
    return {"alias": name, "name": "model", "version": "", "moved": 1.0}


def add(connection: Connection, rows: Sequence[dict[str, Any]]) -> list[str]:
    connection.execute(insert(aliases), list(rows))
    return [one["alias"] for one in rows]


async def count(database: Database) -> int:
    async with database.read() as connection:
        return int((await connection.execute(select(func.count()).select_from(aliases))).scalar_one())


async def test_each_change_gets_its_own_result(database: Database) -> None:
    names = [f"a{number}" for number in range(100)]
    results = await asyncio.gather(*(database.writer.submit(add, row(name)) for name in names))
    assert results == names
    assert await count(database) == 100


async def test_a_change_that_fails_harms_no_other(database: Database) -> None:
    names = ["a", "b", "a", "c"]
    results = await asyncio.gather(*(database.writer.submit(add, row(name)) for name in names), return_exceptions=True)
    assert [result for result in results if isinstance(result, str)] == ["a", "b", "c"]
    assert isinstance(results[2], IntegrityError)
    assert await count(database) == 3


async def test_what_was_submitted_is_written_before_it_closes(url: str, durability: Durability) -> None:
    database = await Database.open(url, durability=durability)
    waiting = [asyncio.create_task(database.writer.submit(add, row(str(number)))) for number in range(50)]
    await asyncio.sleep(0)
    await database.aclose()
    assert await asyncio.gather(*waiting) == [str(number) for number in range(50)]
    again = await Database.open(url)
    assert await count(again) == 50
    await again.aclose()


async def test_a_closed_writer_refuses(url: str, durability: Durability) -> None:
    database = await Database.open(url, durability=durability)
    await database.aclose()
    await database.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await database.writer.submit(add, row("a"))


async def test_full_durability_is_a_setting(tmp_path: Path) -> None:
    database = await Database.open(sqlite_url(tmp_path / "x.db"), durability="full")
    async with database.read() as connection:
        assert (await connection.exec_driver_sql("PRAGMA synchronous")).scalar() == 2
        assert (await connection.exec_driver_sql("PRAGMA journal_mode")).scalar() == "wal"
    await database.aclose()


async def test_a_server_that_went_away_and_came_back(postgres: PostgresCluster) -> None:
    name = postgres.create()
    database = await Database.open(postgres.url(name))
    await database.writer.submit(add, row("before"))
    await asyncio.to_thread(postgres.stop)
    results = await asyncio.gather(
        *(database.writer.submit(add, row(lost)) for lost in ("a", "b")), return_exceptions=True
    )
    assert [type(result) for result in results if not isinstance(result, Exception)] == []
    await asyncio.to_thread(postgres.start)
    assert await database.writer.submit(add, row("after")) == "after"
    assert await count(database) == 2
    await database.aclose()
    await asyncio.to_thread(postgres.drop, name)


_WRITES_UNTIL_KILLED = """
import asyncio, sys
from sqlalchemy import insert
from terascope.store.database import Database
from terascope.store.tables import aliases
from terascope.store.writer import LoopWriter

def add(connection, rows):
    connection.execute(insert(aliases), list(rows))

async def one(database, worker):
    for number in range(100_000):
        name = f"{worker}-{number}"
        await database.writer.submit(add, {"alias": name, "name": "m", "version": "", "moved": 1.0})
        print(name, flush=True)

async def main():
    database = await Database.open(sys.argv[1])
    await asyncio.gather(*(one(database, worker) for worker in range(8)))

asyncio.run(main())
"""


@pytest.mark.parametrize("after", [1, 40, 300])
async def test_what_was_reported_written_survives_kill_9(url: str, after: int) -> None:
    told = await asyncio.to_thread(_written_until_killed, url, after)
    database = await Database.open(url)
    async with database.read() as connection:
        kept = set((await connection.execute(select(aliases.c.alias))).scalars())
    await database.aclose()
    assert set(told) <= kept


def _written_until_killed(url: str, after: int) -> list[str]:
    """What a process said it has written when it was killed after its line number `after`."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_WRITES_UNTIL_KILLED), url], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    told = [process.stdout.readline().strip() for _ in range(after)]
    os.kill(process.pid, signal.SIGKILL)
    told += [line.strip() for line in process.stdout if line.endswith("\n")]
    process.wait()
    process.stdout.close()
    return told


class _Still(asyncio.SelectorEventLoop):
    """A loop whose time stands still until it is told."""

    now = 0.0

    def time(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("turn_s", "groups"),
    [
        (0.0, [1, 11]),  # the first comes alone; each turn after it brings one
        (0.0004, [1, 5, 5, 1]),  # they come slower, and none waits longer than two milliseconds
        (0.001, [1] * 12),  # so slow that each is alone in its time
    ],
)
def test_turns_that_bring_something_share_a_commit(turn_s: float, groups: list[int]) -> None:
    sizes: list[int] = []

    def note(_: Connection, arguments: Sequence[int]) -> None:
        sizes.append(len(arguments))

    async def submit(writer: LoopWriter) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, _Still)
        waiting = []
        for number in range(12):
            waiting.append(asyncio.create_task(writer.submit(note, number)))
            await asyncio.sleep(0)
            loop.now += turn_s
        await asyncio.gather(*waiting)
        await writer.aclose()

    with asyncio.Runner(loop_factory=_Still) as runner:
        runner.run(submit(LoopWriter(create_engine("sqlite://"), lambda: None)))
    assert sizes == groups

"""What `kill -9` does to the ledger: a gateway under load, killed at random moments, on SQLite and on PostgreSQL.

    make bench NAME=ledger_kills

Each round eight clients ask the echo engine, whole and streamed, with and without `max_tokens`, on a project that is
granted so little that requests are refused for want of it; 0.05 to 0.8 s later the gateway is killed, and started
again on the same database. In the end every run, charge, hold and allocation is looked at.

- `kills`: how often it was killed, on both databases together.
- `lost`: answers that came to their last byte and have no record, and records without their charge.
- `doubled`: requests that were charged more than they cost, or charged without a record.
- `overspent`: allocations with less than nothing, or that are not the sum of their entries and holds.
"""

import argparse
import asyncio
import random
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from harness import install, processes, report
from harness.report import Target

from terascope.store.database import sqlite_url
from terascope.testing.kills import killed
from terascope.testing.postgres import PostgresCluster

DATABASES = ("sqlite", "postgresql")
TARGETS = [Target("lost", "=", 0), Target("doubled", "=", 0), Target("overspent", "=", 0)]
FIGURES = ["kills", "answers", "lost", "doubled", "overspent", "seconds"]


def kill(database: str, kills: int, chance: random.Random) -> dict[str, float]:
    """Kill a gateway so often on a new database of that kind; count what is wrong then."""
    install.say(f"{kills} kills on {database}")
    began = time.monotonic()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if database == "sqlite":
            url = sqlite_url(directory / "ledger.db")
        else:
            cluster = stack.enter_context(PostgresCluster())
            url = cluster.url(cluster.create())
        found = asyncio.run(killed(directory, url, kills=kills, chance=chance))
    for what in ("lost", "doubled", "overspent"):
        if wrong := getattr(found, what):
            install.say(f"{what}: {wrong[:10]}")
    return {
        "kills": found.kills,
        "answers": len(found.completed),
        "lost": len(found.lost),
        "doubled": len(found.doubled),
        "overspent": len(found.overspent),
        "seconds": time.monotonic() - began,
    }


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--kills", type=int, default=100, help="on each database")
    ask.add_argument("--databases", default=",".join(DATABASES), help="which, by comma")
    ask.add_argument("--seed", type=int, default=int(time.time()), help="of the moments; printed")
    a = ask.parse_args()
    print(report.machine(), f"seed {a.seed}", sep=", ", flush=True)
    chance = random.Random(a.seed)
    taken = {name: kill(name, a.kills, chance) for name in a.databases.split(",")}
    rows = [[name, *(int(own[one]) for one in FIGURES)] for name, own in taken.items()]
    print(f"\n{report.table(['database', *FIGURES], rows)}")
    result: dict[str, float | None] = {one: sum(own[one] for own in taken.values()) for one in FIGURES[:-1]}
    report.finish("ledger_kills", result, [Target("kills", "=", a.kills * len(taken)), *TARGETS], taken)


if __name__ == "__main__":
    processes.run("ledger_kills", main)

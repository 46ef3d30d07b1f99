"""What identity, policy, hold and settlement cost on the request path, on SQLite and on PostgreSQL.

    make bench NAME=access_cost

One gateway with the echo engine on a core of its own; the client (wrk, whole answers) and PostgreSQL share the others.
PostgreSQL waits for the disk at every commit, as it does by default. The gateways of all kinds are up at once, each
with a database of its own, and one after the other is asked for a second: a machine that is slower for a while is so
for all of them. They are started anew several times, for one process is not as fast as the next. Kinds:

- `before`: the gateway before there were projects and a ledger (commit 2e7775d, taken from git): keys and run records,
  and none of what else has come since. Only with `--kinds`.
- `without`: this gateway with keys and run records alone (harness/without.py).
- `free`: this gateway, ten keys of ten projects, the model priced at 0: nothing is held, nothing is charged.
- `held`: the same with a price: every request is held and settled.
- `many`: `held` by the same ten keys beside 100,000 keys, 10,000 projects and 10 million ledger entries.

Reported of each database, for `held` against `without`: `added_p50_ms` at 1 connection, `rps_lost` (the part of its
requests/s at 32 connections) with its standard error `rps_lost_se`, and `many_p50_ms`, `many_rps` (over those of
`held`). Figures are medians over the rounds, and ratios and differences are medians of those within a round. `cpu_N_us`
is the processor time of the gateway for a request at N connections: it is less disturbed by what else the machine does.
"""

import argparse
import asyncio
import io
import json
import math
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harness import install, ledger, processes, report, systems
from harness.report import Target, difference, ratio
from harness.systems import HERE, Place, Server

from terascope.store.database import sqlite_url
from terascope.testing.postgres import PostgresCluster

DATABASES = ("sqlite", "postgresql")
KINDS = ("without", "free", "held", "many")
WITHOUT: tuple[str | Path, ...] = (sys.executable, HERE / "without.py")
BEFORE = "2e7775d"
KEYS = 10  # that ask
CONNECTIONS = (1, 32)
Compare = Callable[[float | None, float | None], float | None]
BODY = {"model": "echo", "messages": [{"role": "user", "content": "one two three"}], "max_tokens": 16}
ECHO = {"model": "echo", "engine": "echo", "launcher": "inprocess"}


@dataclass
class Kind:
    """One kind on one database: where its state is, and what the gateway is run from."""

    name: str
    url: str
    directory: Path
    env: Mapping[str, str] = field(default_factory=dict)


def extracted(directory: Path) -> Path | None:
    """The source as it was before; None where git does not have it."""
    git = ["git", "-C", str(install.ROOT), "archive", BEFORE, "src"]
    done = subprocess.run(git, capture_output=True, check=False)
    if done.returncode:
        return None
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        tar.extractall(directory, filter="data")
    return directory / "src"


@contextmanager
def gateway(kind: Kind, cores: set[int]) -> Iterator[Server]:
    """The gateway of that kind, with the price that it has."""
    place = Place(None, kind.directory, cores, kind.env)
    program = WITHOUT if kind.name == "without" else ()
    with systems.terascope_with(
        {"deployments": [ECHO], "database": {"url": kind.url}}, place, program=program
    ) as server:
        if kind.name == "free":
            set_price(server, 0)
        yield server


def set_price(server: Server, price: int) -> None:
    """Let the echo model cost so much a token."""
    body = json.dumps({"prompt": price, "output": price}).encode()
    headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.url}/admin/v1/prices/echo", body, headers, method="PUT")
    urllib.request.urlopen(request, timeout=10).close()


def measure(server: Server, keys: Path, seconds: float) -> dict[str, float]:
    """The figures of one gateway in one round."""
    taken: dict[str, float] = {"bad": 0}
    assert server.process
    for connections in CONNECTIONS:
        before = server.process.cpu_s()
        found = ask(server, keys, connections, seconds, CORES[1])
        taken[f"cpu_{connections}_us"] = (server.process.cpu_s() - before) / max(1, found["requests"]) * 1e6
        taken[f"rps_{connections}"] = found["requests"] / found["seconds"]
        taken[f"p50_{connections}_ms"] = found["p50_ms"]
        taken["bad"] += found["bad"]
    return taken


def started(kind: Kind, stack: ExitStack) -> tuple[Server, Path]:
    """The gateway of that kind, warm, and the keys that it is asked with."""
    server = stack.enter_context(gateway(kind, CORES[0]))
    keys = kind.directory / "keys"
    keys.write_text(server.key) if kind.name == "before" else ledger.write_keys(keys, KEYS)
    ask(server, keys, 32, 2.0, CORES[1])
    return server, keys


def ask(server: Server, keys: Path, connections: int, seconds: float, cores: set[int]) -> dict[str, float]:
    """Whole answers by `wrk`, with each key in turn."""
    command = [
        "wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "20s", "-s", str(HERE / "keys.lua"),
        f"{server.url}{systems.CHAT}", "--", str(keys), json.dumps(BODY),
    ]  # fmt: skip
    return systems.json_line(command, cores, seconds + 60)


def prepared(names: Sequence[str], database: str, many: ledger.Size, stack: ExitStack) -> list[Kind]:
    """The kinds, each with its own database, filled."""
    root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    cluster = None if database == "sqlite" else stack.enter_context(PostgresCluster(fsync=True))
    kinds = []
    for name in names:
        directory = root / name
        directory.mkdir()
        source = extracted(directory / "before") if name == "before" else None
        if name == "before" and source is None:
            install.say(f"git has no commit {BEFORE}: `before` is left out")
            continue
        url = cluster.url(cluster.create()) if cluster else sqlite_url(directory / "bench.db")
        if name != "before":
            began = time.monotonic()
            asyncio.run(ledger.fill(url, many if name == "many" else ledger.TEN))
            install.say(f"{database}: {name} is filled, {time.monotonic() - began:.0f} s")
        kinds.append(Kind(name, url, directory, {"PYTHONPATH": str(source)} if source else {}))
    return kinds


Rounds = dict[str, list[dict[str, float]]]
"""The figures of each round, by kind."""


def take(database: str, kinds: Sequence[Kind], rounds: int, seconds: int) -> Rounds:
    """The figures of all kinds on one database, of gateways that are started for it."""
    taken: Rounds = {}
    with ExitStack() as stack:
        up = {kind.name: started(kind, stack) for kind in kinds}
        for number, name in report.interleaved(rounds, list(up)):
            install.say(f"{database}, round {number + 1} of {rounds}: {name}")
            taken.setdefault(name, []).append(measure(*up[name], seconds))
    return taken


def take_all(database: str, names: Sequence[str], starts: int, rounds: int, seconds: int, many: ledger.Size) -> Rounds:
    """The figures of all starts."""
    with ExitStack() as stack:
        kinds = prepared(names, database, many, stack)
        taken = [take(database, kinds, rounds, seconds) for _ in range(starts)]
    return {name: [figures for one in taken for figures in one[name]] for name in taken[0]}


def compared(taken: Rounds, how: Compare, figure: str, one: str, other: str) -> float | None:
    """The median over the rounds of what `how` says of a figure of two kinds; None where one was not measured."""
    found = by_round(taken, how, figure, one, other)
    return statistics.median(found) if found else None


def by_round(taken: Rounds, how: Compare, figure: str, one: str, other: str) -> list[float]:
    """What `how` says of a figure of two kinds in each round."""
    pairs = zip(taken.get(one, ()), taken.get(other, ()), strict=False)
    return [said for mine, yours in pairs if (said := how(mine[figure], yours[figure])) is not None]


def standard_error(values: Sequence[float]) -> float | None:
    """That of their median, as if they were normally distributed; None of fewer than two."""
    return math.sqrt(math.pi / 2 / len(values)) * statistics.stdev(values) if len(values) > 1 else None


def result(database: str, taken: Rounds) -> dict[str, float | None]:
    """The benchmark's keys of one database."""
    kept = compared(taken, ratio, "rps_32", "held", "without")
    found = {
        "added_p50_ms": compared(taken, difference, "p50_1_ms", "held", "without"),
        "rps_lost": None if kept is None else 1 - kept,
        "rps_lost_se": standard_error(by_round(taken, ratio, "rps_32", "held", "without")),
        "many_p50_ms": compared(taken, ratio, "p50_1_ms", "many", "held"),
        "many_rps": compared(taken, ratio, "rps_32", "many", "held"),
        "bad": sum(one["bad"] for rounds in taken.values() for one in rounds),
    }
    return {f"{key}_{database}": value for key, value in found.items()}


def targets(database: str) -> list[Target]:
    """What is to be reached on one database; with many as with ten, within what rounds differ by."""
    return [
        Target(f"added_p50_ms_{database}", "<", 0.3),
        Target(f"rps_lost_{database}", "<", 0.1),
        Target(f"many_p50_ms_{database}", "<", 1.05),
        Target(f"many_rps_{database}", ">=", 0.95),
        Target(f"bad_{database}", "=", 0),
    ]


def main() -> None:
    ask_for = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask_for.add_argument("--rounds", type=int, default=4, help="of each start")
    ask_for.add_argument("--starts", type=int, default=5, help="of the gateways")
    ask_for.add_argument("--seconds", type=int, default=1, help="how long each closed-loop load runs")
    ask_for.add_argument("--databases", default=",".join(DATABASES), help="which, by comma")
    ask_for.add_argument("--kinds", default=",".join(KINDS), help="which, by comma")
    ask_for.add_argument("--entries", type=int, default=ledger.MANY.entries, help="of `many`")
    a = ask_for.parse_args()
    for tool in ("wrk", "taskset"):
        install.tool(tool, {"taskset": "util-linux"}.get(tool, tool))
    print(report.machine(), flush=True)
    os.sched_setaffinity(0, CORES[1])  # what is started here shares the client's cores, unless it is pinned itself
    many = ledger.Size(ledger.MANY.keys, ledger.MANY.projects, a.entries)
    databases = a.databases.split(",")
    taken = {one: take_all(one, a.kinds.split(","), a.starts, a.rounds, a.seconds, many) for one in databases}
    columns = ["rps_1", "rps_32", "p50_1_ms", "p50_32_ms", "cpu_1_us", "cpu_32_us", "bad"]
    middle = {one: {name: report.medians(rounds) for name, rounds in taken[one].items()} for one in databases}
    rows = [[one, name, *(own[key] for key in columns)] for one in databases for name, own in middle[one].items()]
    print(f"\n{report.table(['database', 'kind', *columns], rows)}")
    keys = {key: value for one in databases for key, value in result(one, taken[one]).items()}
    report.finish("access_cost", keys, [target for one in databases for target in targets(one)], middle)


CORES = processes.split_cores() if __name__ == "__main__" else (set(), set())

if __name__ == "__main__":
    processes.run("access_cost", main)

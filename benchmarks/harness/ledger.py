"""Fills a database with keys, projects and ledger entries, as many as a community has."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy import Connection, insert, text

from terascope.store import tables
from terascope.store.database import Database

GRANTED = 10**15  # micro service units: more than a benchmark can use
_CHUNK = 10_000
# Both databases count by themselves: ten million rows do not pass through Python.
_NUMBERS = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :count) SELECT {} FROM n",
    "postgresql": "SELECT {} FROM generate_series(0, :count - 1) AS n(i)",
}
_TEXT = {"sqlite": "printf('%012d', i)", "postgresql": "lpad(i::text, 12, '0')"}


@dataclass(frozen=True)
class Size:
    """How many of each there are."""

    keys: int
    projects: int
    entries: int


TEN = Size(10, 10, 10)
MANY = Size(100_000, 10_000, 10_000_000)


def key(number: int) -> str:
    """The key of that number."""
    return f"tera-benchmark-{number}"


async def fill(url: str, size: Size) -> None:
    """Make a database with so many keys and projects, each with one allocation, and charges on them."""
    database = await Database.open(url)
    try:
        for work in (_projects, _keys, _entries, _looked_at):
            await database.writer.submit(partial(_filled, work), size)
    finally:
        await database.aclose()


def _filled(work: Callable[[Connection, Size], None], connection: Connection, sizes: Sequence[Size]) -> None:
    for size in sizes:
        work(connection, size)


def write_keys(path: Path, count: int) -> None:
    """Write the first keys to a file, one a line."""
    path.write_text("".join(f"{key(number)}\n" for number in range(count)))


def _projects(connection: Connection, size: Size) -> None:
    now, each = time.time(), size.entries // size.projects
    for start in range(0, size.projects, _CHUNK):
        numbers = range(start, min(start + _CHUNK, size.projects))
        names = [f"p{number}" for number in numbers]
        everything = {"modes": ["query"], "qos": ["interactive"]}
        connection.execute(insert(tables.projects), [{"name": one, "title": "", "created": now} for one in names])
        connection.execute(insert(tables.policies), [{"project": one, "model": "*"} | everything for one in names])
        allocation = {"unlimited": False, "held": 0, "starts": 0.0, "note": "", "created": now}
        rows = [{"id": f"alloc_{one}", "project": one, "balance": GRANTED - each} | allocation for one in names]
        connection.execute(insert(tables.allocations), rows)


def _keys(connection: Connection, size: Size) -> None:
    common = {"prefix": "tera-bench", "scopes": ["query"], "created": time.time()}
    for start in range(0, size.keys, _CHUNK):
        numbers = range(start, min(start + _CHUNK, size.keys))
        whose = {number: {"user_id": f"u{number}", "project": f"p{number % size.projects}"} for number in numbers}
        hashes = {number: hashlib.sha256(key(number).encode()).hexdigest() for number in numbers}
        rows = [{"id": f"key_{n}", "name": f"u{n}", "sha256": hashes[n]} | whose[n] | common for n in numbers]
        connection.execute(insert(tables.keys), rows)
        members = [one | {"role": "member", "added": 0.0} for one in whose.values()]
        connection.execute(insert(tables.members), members)


def _entries(connection: Connection, size: Size) -> None:
    """A grant for each allocation and charges of 1, over the last hundred days."""
    day = int(time.time() // 86_400)
    kind = connection.dialect.name
    columns = (
        "id, allocation, project, kind, amount, time, day, user_id, key_id, model, prompt_tokens, output_tokens, note, "
        "requests"
    )
    who = f"'u' || (i % {size.keys}), 'key_' || (i % {size.keys}), 'echo@1', 1, 1, '', 1"
    place = f"'alloc_p' || (i % {size.projects}), 'p' || (i % {size.projects})"
    when = f"({day} - 99 + i * 100 / {size.entries}) * 86400.0, {day} - 99 + i * 100 / {size.entries}"
    charges = f"'req_' || {_TEXT[kind]}, {place}, 'charge', -1, {when}, {who}"
    grants = f"'grant_' || i, 'alloc_p' || i, 'p' || i, 'grant', {GRANTED}, 0.0, 0, 'root', '', '', 0, 0, '', 1"
    for values, count in ((grants, size.projects), (charges, size.entries)):
        connection.execute(text(f"INSERT INTO entries ({columns}) " + _NUMBERS[kind].format(values)), {"count": count})


def _looked_at(connection: Connection, _size: Size) -> None:
    connection.execute(text("ANALYZE"))

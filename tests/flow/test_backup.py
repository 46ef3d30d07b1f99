"""A backup that is taken under a load of real requests, restored elsewhere: a whole gateway, with nothing lost."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from sqlalchemy import select

from terascope.store.database import Database, sqlite_url
from terascope.store.holds import HoldStore
from terascope.store.tables import audit as audit_table
from terascope.store.tables import metadata, replicas
from terascope.testing.kills import HOLD_S, asking, grant, paying_keys
from terascope.testing.ledger import audit
from terascope.testing.postgres import PostgresCluster
from terascope.testing.serve import ServeProcess

KINDS = ("sqlite", "postgresql")
Urls = Callable[[str], str]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Urls]:
    """The URL of an empty database of a kind; a new one each time."""
    made: list[str] = []

    def make(kind: str) -> str:
        if kind == "sqlite":
            made.append("")
            return sqlite_url(tmp_path / f"{len(made)}.db")
        cluster: PostgresCluster = request.getfixturevalue("postgres")
        made.append(cluster.create())
        return cluster.url(made[-1])

    yield make
    for name in filter(None, made):
        request.getfixturevalue("postgres").drop(name)


def gateway(directory: Path, url: str) -> ServeProcess:
    directory.mkdir()
    return ServeProcess(directory, config={"database": {"url": url}, "accounting": {"hold_s": HOLD_S}})


def command(*arguments: str | Path, data_dir: Path, url: str = "") -> "subprocess.CompletedProcess[str]":
    """A command on the machine of a gateway, with its configuration."""
    config = data_dir.with_name("database.yaml")
    config.parent.mkdir(exist_ok=True)
    config.write_text(yaml.safe_dump({"database": {"url": url}}))
    environment = os.environ | {"TERASCOPE_DATA_DIR": str(data_dir), "TERASCOPE_CONFIG": str(config)}
    program = [sys.executable, "-m", "terascope", *map(str, arguments)]
    return subprocess.run(program, capture_output=True, text=True, check=False, timeout=120, env=environment)


async def told(*arguments: str | Path, data_dir: Path, url: str) -> Any:
    """What a command that succeeds prints as JSON."""
    done = await asyncio.to_thread(command, *arguments, "--json", data_dir=data_dir, url=url)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def contents(url: str) -> dict[str, set[str]]:
    """Every row of every table but those that restoring itself writes."""
    database = await Database.open(url)
    found = {}
    async with database.read() as connection:
        for table in metadata.sorted_tables:
            query = select(table) if table is not audit_table else select(table).where(table.c.action != "restore")
            found[table.name] = {repr(tuple(row)) for row in await connection.execute(query)}
    await database.aclose()
    del found[replicas.name]
    return found


@pytest.mark.parametrize("target_kind", KINDS)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_gateway_from_a_backup_under_load(tmp_path: Path, new_url: Urls, kind: str, target_kind: str) -> None:
    source, target, backup = new_url(kind), new_url(target_kind), tmp_path / "backup"
    first = gateway(tmp_path / "first", source)
    with first:
        await asyncio.to_thread(first.ready)
        keys = await paying_keys(first)
        await grant(first, 100)
        async with asking(first, keys) as load:
            before = await load.reached(50)
            made = await told("backup", backup, data_dir=first.data_dir, url=source)
            await load.reached(len(before) + 1)  # it goes on answering
        assert (made["file"], made["bytes"]) == (str(backup), backup.stat().st_size)
        assert await asyncio.to_thread(first.stop) == 0
    second = gateway(tmp_path / "second", target)
    restored = await told("restore", backup, data_dir=second.data_dir, url=target)
    assert (restored["result"], restored["rows"]) == ("restored", made["rows"])
    await check_copy(source, target, before)
    with second:
        await asyncio.to_thread(second.ready)
        await check_gateway(second, keys[1], before)
        assert await asyncio.to_thread(second.stop) == 0


async def check_copy(source: str, target: str, before: list[str]) -> None:
    """Nothing is in the copy that was never in the source, and all that was there when the backup was begun."""
    left, right = await contents(source), await contents(target)
    for name in ("keys", "projects", "members", "policies", "models", "aliases"):
        assert left[name] == right[name]
    for name in ("runs", "entries", "audit"):
        assert right[name] <= left[name]
    assert all(any(run in row for row in right["runs"]) for run in before)
    database = await Database.open(target)
    assert (await audit(database)).clean
    await HoldStore(database).expire(1e12)  # what ran while it was taken comes back
    assert await HoldStore(database).total() == 0
    assert (await audit(database)).clean
    await database.aclose()


async def check_gateway(process: ServeProcess, key: str, before: list[str]) -> None:
    """Keys work, records are there, and what was done is in the audit log."""
    body = {"model": "echo", "messages": [{"role": "user", "content": "one two three"}]}
    async with httpx.AsyncClient(base_url=process.url, timeout=30) as http:
        answer = await http.post("/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code == 200, answer.text
        record = (await http.get(f"/admin/v1/runs/{before[0]}", headers=process.headers)).json()
        assert (record["id"], record["outcome"]) == (before[0], "completed")
        entries = (await http.get("/admin/v1/audit", headers=process.headers)).json()["data"]
    assert [one["action"] for one in entries[:2]] == ["restore", "backup"]
    assert {one["user"] for one in entries[:2]} == {"local operator"}


@pytest.mark.parametrize("kind", KINDS)
async def test_every_table_of_a_gateway_that_rests_is_equal(tmp_path: Path, new_url: Urls, kind: str) -> None:
    """One that was killed in mid-answer, so that something is held."""
    source, target, backup = new_url(kind), new_url(kind), tmp_path / "backup"
    first = gateway(tmp_path / "first", source)
    with first:
        await asyncio.to_thread(first.ready)
        keys = await paying_keys(first)
        await grant(first, 100)
        async with asking(first, keys) as load:
            await load.reached(20)
            await load.until_killed(first)
    await told("backup", backup, data_dir=first.data_dir, url=source)
    await told("restore", backup, data_dir=tmp_path / "second" / "data", url=target)
    assert await contents(target) == await contents(source)


def test_what_is_refused(tmp_path: Path) -> None:
    def refused(*arguments: str | Path) -> str:
        done = command(*arguments, data_dir=data_dir)
        assert (done.returncode, done.stdout) == (1, "")
        return done.stderr

    backup = tmp_path / "backup"
    with gateway(tmp_path / "first", "") as process:
        data_dir = process.data_dir
        process.ready()
        assert command("backup", backup, data_dir=data_dir).returncode == 0
        assert "is there already" in refused("backup", backup)
        assert "another gateway uses" in refused("restore", backup, "--replace")
        assert command("restore", backup, "--check", data_dir=data_dir).stdout.startswith("result   whole\n")
        assert process.stop() == 0
    assert "--replace to lose what is in it" in refused("restore", backup)
    assert command("restore", backup, "--replace", data_dir=data_dir).returncode == 0
    data_dir = tmp_path / "empty" / "data"
    assert "no gateway has used this database" in refused("backup", tmp_path / "other")
    assert not data_dir.exists()
    assert "is no backup of Terascope" in refused("restore", __file__)
    assert not data_dir.exists()


def test_the_data_directory_has_nothing_else_to_back_up(tmp_path: Path) -> None:
    """What a gateway keeps outside its database would be lost: whoever adds something here backs it up as well.

    The content of files is the exception, of which `terascope backup` tells: it is large, and copied beside.
    """
    with gateway(tmp_path / "first", "") as process:
        process.ready()
        body = {"model": "echo", "messages": [{"role": "user", "content": "one two three"}]}
        url = f"{process.url}/v1/chat/completions"
        assert httpx.post(url, json=body, headers=process.headers, timeout=30).status_code == 200
        found = {path.name for path in process.data_dir.iterdir()}
        assert process.stop() == 0
    database = {"terascope.db", "terascope.db-wal", "terascope.db-shm"}
    assert found - database == {"files", "logs", "run", "gateway.lock", "terascope.db.lock", "operator.json"}

"""`kill -9` of the gateway at random points of a load: nothing lost, nothing charged twice, never overspent."""

import asyncio
import json
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from terascope.core.prices import micro
from terascope.store.allocations import AllocationStore
from terascope.store.database import Database, sqlite_url
from terascope.store.holds import HoldStore
from terascope.store.runs import RunStore
from terascope.testing.ledger import audit
from terascope.testing.postgres import PostgresCluster
from terascope.testing.serve import ServeProcess

KILLS = 10
CLIENTS = 8
GRANTED = 25.0  # little enough that holds, and those of killed gateways, leave others without
HOLD_S = 1.0
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


async def client(http: httpx.AsyncClient, completed: list[str], number: int) -> None:
    """Ask until the gateway is gone; note the id of every answer that was complete."""
    body = {"model": "echo", "messages": [{"role": "user", "content": "one two three"}], "stream": number % 2 == 0}
    if number % 3:
        body["max_tokens"] = 50
    while True:
        try:
            async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
                data = await answer.aread()
        except httpx.TransportError:
            return
        if answer.status_code == 402:
            continue
        assert answer.status_code == 200, data
        whole = data.endswith(b"data: [DONE]\n\n") if body["stream"] else "usage" in json.loads(data)
        assert whole, data
        completed.append(answer.headers["x-request-id"])


async def load_until_killed(process: ServeProcess, key: str, seconds: float) -> list[str]:
    completed: list[str] = []
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=process.url, headers=headers, timeout=30) as http:
        clients = [asyncio.create_task(client(http, completed, number)) for number in range(CLIENTS)]
        await asyncio.sleep(seconds)  # the moment of the kill is what varies; nothing waits for anything here
        await asyncio.to_thread(process.stop, signal.SIGKILL)
        await asyncio.gather(*clients)
    return completed


async def prepared(process: ServeProcess) -> str:
    """A key of a project that pays; the first start's own would pay with an allocation without a limit."""
    async with httpx.AsyncClient(base_url=process.url, headers=process.headers, timeout=30) as http:
        for method, path, body in (
            ("POST", "/admin/v1/projects", {"name": "climate"}),
            ("PUT", "/admin/v1/projects/climate/policies/*", {}),
            ("POST", "/admin/v1/projects/climate/allocations", {"units": GRANTED}),
        ):
            assert (await http.request(method, path, json=body)).is_success
        made = await http.post("/admin/v1/keys", json={"name": "ada", "project": "climate"})
        return str(made.json()["key"])


async def checked(url: str, completed: list[str]) -> None:
    database = await Database.open(url)
    try:
        found = await audit(database)
        assert found.clean, found
        for run in completed:
            record = await RunStore(database).get(run)
            assert record is not None, run
            assert (record.outcome, record.cost > 0) == ("completed", True)
        await HoldStore(database).expire(1e12)  # what the killed gateways held comes back
        [row] = await AllocationStore(database).of("climate")
        assert row.held == 0
        assert 0 <= row.balance < micro(GRANTED)
        assert (await audit(database)).clean
    finally:
        await database.aclose()


async def test_nothing_is_lost_doubled_or_overspent(tmp_path: Path, url: str) -> None:
    chance = random.Random(11)
    process = ServeProcess(tmp_path, config={"database": {"url": url}, "accounting": {"hold_s": HOLD_S}})
    await asyncio.to_thread(lambda: process.start().ready())
    key = await prepared(process)
    completed: list[str] = []
    for _ in range(KILLS):
        completed += await load_until_killed(process, key, chance.uniform(0.05, 0.8))
        await asyncio.to_thread(lambda: process.start().ready())
    assert await asyncio.to_thread(process.stop) == 0
    assert len(completed) > KILLS * CLIENTS
    await checked(url, completed)

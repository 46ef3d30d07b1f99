"""A gateway under a load of requests that cost something, killed at any moment, again and again; what is left then."""

import asyncio
import json
import random
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from terascope.core.prices import micro
from terascope.store.allocations import AllocationStore
from terascope.store.charges import ChargeStore
from terascope.store.database import Database
from terascope.store.holds import HoldStore
from terascope.store.runs import RunStore
from terascope.testing.ledger import audit
from terascope.testing.serve import ServeProcess

CLIENTS = 8
HOLD_S = 1.0
_GRANTED = {"climate": 2.5, "tides": 250.0}
"""Service units that each project gets each round: one so few that holds, and those of killed gateways, leave others
without; one so many that it is held for in bulk."""
_LOAD_S = (0.05, 0.8)
_ALL_TIME = 1e12


@dataclass(slots=True)
class Outcome:
    """What was found wrong after `kills`: ids of runs and allocations, empty when nothing is."""

    kills: int
    completed: list[str] = field(default_factory=list)
    """Requests that were answered to the last byte; not a fault."""
    lost: list[str] = field(default_factory=list)
    """Answered without a record, or recorded without its charge."""
    doubled: list[str] = field(default_factory=list)
    """Charged more than they cost, or charged without a record."""
    overspent: list[str] = field(default_factory=list)
    """Allocations with less than nothing, or that are not what their entries and holds say."""

    @property
    def clean(self) -> bool:
        """Whether all is well."""
        return not (self.lost or self.doubled or self.overspent)


async def killed(directory: Path, url: str, *, kills: int, chance: random.Random) -> Outcome:
    """Start a gateway on the database at `url`, and kill it `kills` times under load; return what was found then.

    `directory` is empty and gets its files.
    """
    found = Outcome(kills)
    with ServeProcess(directory, config={"database": {"url": url}, "accounting": {"hold_s": HOLD_S}}) as process:
        await asyncio.to_thread(process.ready)
        keys = await paying_keys(process)
        for _ in range(kills):
            await grant(process)
            found.completed += await load_until_killed(process, keys, chance.uniform(*_LOAD_S))
            await asyncio.to_thread(lambda: process.start().ready())
        assert await asyncio.to_thread(process.stop) == 0
    return await judge(url, found)


async def paying_keys(process: ServeProcess) -> list[str]:
    """Keys of projects that pay; the first start's own would pay with an allocation without a limit."""
    keys = []
    async with _operator(process) as http:
        for project in _GRANTED:
            for method, path, body in (
                ("POST", "/admin/v1/projects", {"name": project}),
                ("PUT", f"/admin/v1/projects/{project}/policies/*", {}),
            ):
                (await http.request(method, path, json=body)).raise_for_status()
            made = await http.post("/admin/v1/keys", json={"name": f"ada's {project}", "project": project})
            keys.append(str(made.raise_for_status().json()["key"]))
    return keys


async def grant(process: ServeProcess, times: float = 1) -> None:
    """Give each project an allocation more, so many times what it gets for a round."""
    async with _operator(process) as http:
        for project, units in _GRANTED.items():
            answer = await http.post(f"/admin/v1/projects/{project}/allocations", json={"units": units * times})
            answer.raise_for_status()


async def load_until_killed(process: ServeProcess, keys: Sequence[str], seconds: float) -> list[str]:
    """Ask with several clients for so long, then kill; return the ids of all answers that were complete."""
    async with asking(process, keys) as load:
        await asyncio.sleep(seconds)  # the moment of the kill is what varies; nothing waits for anything here
        await load.until_killed(process)
    return load.completed


class Load:
    """Clients that ask until the gateway is gone; `completed` has the ids of the answers that were complete so far."""

    def __init__(self, http: httpx.AsyncClient, keys: Sequence[str]) -> None:
        self._keys = keys
        self.completed: list[str] = []
        self._one_more = asyncio.Event()
        self._clients = [asyncio.create_task(self._ask(http, number)) for number in range(CLIENTS)]

    async def reached(self, count: int) -> list[str]:
        """Return `count` ids or more, once there are so many."""
        while len(self.completed) < count:
            self._one_more.clear()
            await self._one_more.wait()
        return list(self.completed)

    async def until_killed(self, process: ServeProcess) -> None:
        """Kill the gateway; return when every client has seen it. Raises what was wrong with an answer."""
        await asyncio.to_thread(process.stop, signal.SIGKILL)
        await asyncio.gather(*self._clients)

    async def aclose(self) -> None:
        """Ask no more."""
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _ask(self, http: httpx.AsyncClient, number: int) -> None:
        key = self._keys[number * len(self._keys) // CLIENTS]
        while (run := await _completed(http, key, number)) is not None:
            if run:
                self.completed.append(run)
                self._one_more.set()


@asynccontextmanager
async def asking(process: ServeProcess, keys: Sequence[str]) -> AsyncIterator[Load]:
    """A load that ends with the block."""
    async with httpx.AsyncClient(base_url=process.url, timeout=30) as http:
        load = Load(http, keys)
        try:
            yield load
        finally:
            await load.aclose()


async def _completed(http: httpx.AsyncClient, key: str, number: int) -> str | None:
    """The id of an answer that is complete; empty when nobody could pay for it; None when the gateway is gone."""
    body = {"model": "echo", "messages": [{"role": "user", "content": "one two three"}], "stream": number % 2 == 0}
    if number % 3:
        body["max_tokens"] = 50
    headers = {"Authorization": f"Bearer {key}"}
    try:
        async with http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
            data = await answer.aread()
    except httpx.TransportError:
        return None
    if answer.status_code == 402:
        return ""
    assert answer.status_code == 200, data
    whole = data.endswith(b"data: [DONE]\n\n") if body["stream"] else "usage" in json.loads(data)
    assert whole, data
    return str(answer.headers["x-request-id"])


async def judge(url: str, found: Outcome) -> Outcome:
    """Look at all that is in the database, before and after what the killed gateways held has come back."""
    database = await Database.open(url)
    try:
        await _audited(database, found)
        for run in found.completed:
            record = await RunStore(database).get(run)
            if record is None or record.outcome != "completed" or not record.cost:
                found.lost.append(run)
        await ChargeStore(database).enter()
        await HoldStore(database).expire(_ALL_TIME)
        await _audited(database, found)
        for project, units in _GRANTED.items():
            rows = await AllocationStore(database).of(project)
            found.overspent += [row.id for row in rows if row.held or not 0 <= row.balance <= micro(units)]
            assert sum(row.balance for row in rows) < len(rows) * micro(units), f"{project} was charged nothing"
    finally:
        await database.aclose()
    return found


async def _audited(database: Database, found: Outcome) -> None:
    wrong = await audit(database)
    found.lost += wrong.lost
    found.doubled += wrong.doubled + wrong.strange
    found.overspent += wrong.overspent + wrong.unbalanced


def _operator(process: ServeProcess) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=process.url, headers=process.headers, timeout=30)

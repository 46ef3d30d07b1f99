"""More requests than places: who gets them, who leaves, how long it takes."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest

from terascope.access.principal import Grant, Principal
from terascope.core.clock import SystemClock
from terascope.core.config import DeploymentConfig, SchedulerConfig, ServerConfig
from terascope.core.errors import ModelUnavailable, UnsupportedFeature
from terascope.core.models import Mode, ModelVersion, Task
from terascope.core.prices import Price
from terascope.core.projects import Qos
from terascope.engines.registry import engine_kind
from terascope.fleet.fleet import Fleet
from terascope.fleet.reconciler import Limits
from terascope.inference.place import Place
from terascope.inference.turns import Turns
from terascope.protocol.request import ModelRequest
from terascope.scheduler.usage import Usage
from terascope.testing.clock import ManualClock
from terascope.testing.faults import faulty
from terascope.testing.fleet import running_fleet, until

ECHO = ModelVersion("echo", "1", "digest", "echo:echo", "", Task.GENERATE, 0)


class Told(Usage):
    """Remembers what it was told."""

    def __init__(self, half_life_s: float, monotonic: Callable[[], float]) -> None:
        super().__init__(half_life_s, monotonic)
        self.added: list[tuple[str, float]] = []

    def add(self, project: str, cost: float) -> None:
        self.added.append((project, cost))
        super().add(project, cost)


class Crowd:
    """Requests that ask for turns, and hold them until they are told to end."""

    def __init__(self, fleet: Fleet, clock: ManualClock) -> None:
        self.reserved: dict[str, int] = {}
        self.clock = clock
        self.usage = Told(math.inf, clock.monotonic)
        self.turns = Turns(
            fleet, ServerConfig(wait_timeout_s=30), clock, self.usage,
            SchedulerConfig(floors={}), self._reserved, look_s=0.01,
        )  # fmt: skip
        self.order: list[str] = []
        self.places: dict[str, Place] = {}
        self.began: dict[str, asyncio.Event] = {}
        self._ends: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def _reserved(self, version: ModelVersion, later_s: float) -> Mapping[str, int]:
        return self.reserved

    async def ask(self, name: str, project: str = "a", qos: Qos = Qos.INTERACTIVE, **fields: Any) -> None:
        """A request called `name` asks for its turn, and what can happen at once has happened on return."""
        who = Principal("key_1", "someone", frozenset(), name.rstrip("0123456789"), project)
        grant = Grant(who, Mode.QUERY, ECHO.public_name, project, qos, Price(1, 1))
        body = {"model": "echo", "prompt": "hello", "max_tokens": 100} | fields
        request = ModelRequest.read(fields.pop("endpoint", "completions"), Mode.QUERY, orjson.dumps(body))
        self.places[name] = self.turns.place(grant, ECHO, request)
        self.began[name], self._ends[name] = asyncio.Event(), asyncio.Event()
        self._tasks[name] = asyncio.create_task(self._hold(name))
        await settle()

    async def end(self, *names: str) -> None:
        """Those requests are over."""
        for name in names:
            self._ends[name].set()
            await self._tasks[name]
        await settle()

    async def leave(self, name: str) -> None:
        """The client of that request closes its connection."""
        self._tasks[name].cancel()
        await asyncio.gather(self._tasks[name], return_exceptions=True)
        await settle()

    def failure(self, name: str) -> BaseException | None:
        return self._tasks[name].exception()

    async def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _hold(self, name: str) -> None:
        async with self.places[name].turn():
            self.order.append(name)
            self.began[name].set()
            await self._ends[name].wait()
        self.places[name].settle(100, 100)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    patience = Limits(external_s=0.2, external_pause_s=0.05)
    async with running_fleet(tmp_path, SystemClock(), engine_kind=engine_kind, limits=patience) as one:
        yield one


@pytest.fixture
async def crowd(fleet: Fleet) -> AsyncIterator[Crowd]:
    """Two places."""
    await fleet.start([(DeploymentConfig(model="echo", engine="echo", launcher="inprocess", max_in_flight=2), ECHO)])
    await until(fleet, lambda: fleet.replicas_for(ECHO.public_name))
    async with AsyncExitStack() as stack:
        one = Crowd(fleet, ManualClock())
        stack.push_async_callback(one.close)
        yield one


async def test_no_more_than_the_limit_at_once(fleet: Fleet, crowd: Crowd) -> None:
    for name in ("one", "two", "three", "four"):
        await crowd.ask(name)
    assert crowd.order == ["one", "two"]
    assert [replica.in_flight for replica in fleet.replicas_for(ECHO.public_name)] == [2]
    await crowd.end("two")
    assert crowd.order == ["one", "two", "three"]
    await crowd.end("one", "three", "four")
    assert [replica.in_flight for replica in fleet.replicas_for(ECHO.public_name)] == [0]


async def test_projects_share_and_users_take_turns(crowd: Crowd) -> None:
    await crowd.ask("first")
    await crowd.ask("second")
    for number in range(4):
        await crowd.ask(f"heavy{number}", "big")
    await crowd.ask("other0", "big")
    for number in range(3):
        await crowd.ask(f"light{number}", "small")
    for name in ("first", "second"):
        await crowd.end(name)
    for _ in range(6):
        await crowd.end(crowd.order[-1])
    assert sorted(crowd.order[2:8]) == ["heavy0", "heavy1", "light0", "light1", "light2", "other0"]
    assert [name for name in crowd.order[2:] if "light" not in name] == [
        "heavy0",
        "other0",
        "heavy1",
        "heavy2",
        "heavy3",
    ]


async def test_the_urgent_go_before_the_patient(crowd: Crowd) -> None:
    await crowd.ask("a")
    await crowd.ask("b")
    for qos in (Qos.BATCH, Qos.INTERACTIVE, Qos.URGENT):
        await crowd.ask(qos.value, qos=qos)
    await crowd.end("a", "b")
    assert crowd.order[2:] == ["urgent", "interactive"]
    await crowd.end("urgent")
    assert crowd.order[-1] == "batch"


async def test_who_leaves_while_waiting_is_not_served(fleet: Fleet, crowd: Crowd) -> None:
    for name in ("a", "b", "gone", "c"):
        await crowd.ask(name)
    await crowd.leave("gone")
    await crowd.end("a", "b")
    assert crowd.order == ["a", "b", "c"]
    assert [replica.in_flight for replica in fleet.replicas_for(ECHO.public_name)] == [1]


async def test_who_leaves_in_the_moment_of_its_turn_gives_it_on(fleet: Fleet, crowd: Crowd) -> None:
    for name in ("a", "b", "gone", "c"):
        await crowd.ask(name)
    crowd._ends["a"].set()
    crowd._ends["b"].set()
    await asyncio.sleep(0)  # the turn of `gone` has come, and it has not noticed
    await crowd.leave("gone")
    assert "c" in crowd.order
    await crowd.end("c")
    assert [replica.in_flight for replica in fleet.replicas_for(ECHO.public_name)] == [0]


async def test_reserved_slots_wait_for_their_project(crowd: Crowd) -> None:
    crowd.reserved = {"lab": 1}
    await crowd.ask("a")
    await crowd.ask("b")
    assert crowd.order == ["a"]
    await crowd.ask("experiment", "lab", Qos.BATCH)
    assert crowd.order == ["a", "experiment"]
    crowd.reserved = {}  # it is over, and nothing else happens
    await crowd.end("experiment")
    assert crowd.order == ["a", "experiment", "b"]


async def test_a_reservation_that_ends_lets_others_in_by_itself(crowd: Crowd) -> None:
    crowd.reserved = {"lab": 2}
    await crowd.ask("a")
    assert crowd.order == []
    crowd.reserved = {}
    async with asyncio.timeout(10):
        await crowd.began["a"].wait()


async def test_what_it_takes_is_told(crowd: Crowd) -> None:
    await crowd.ask("a")
    await crowd.ask("b")
    await crowd.ask("c")
    assert crowd.places["c"].wait_s() is None  # nothing was served yet
    crowd.clock.advance(10)
    await crowd.end("a")
    assert crowd.places["c"].wait_s() is None  # it runs
    for name in "defg":
        await crowd.ask(name)
    # 100 units were served in 10 s; each that waits is expected to take 112, the prompt with it
    waits = [crowd.places[name].wait_s() for name in "defg"]
    assert waits == pytest.approx([11.2, 22.4, 33.6, 44.8])


async def test_what_runs_while_nobody_waits_is_charged_when_it_ends_or_somebody_waits(crowd: Crowd) -> None:
    await crowd.ask("ended", "one")
    await crowd.end("ended")
    await crowd.ask("a", "two")
    await crowd.ask("b", "three")
    assert [crowd.usage.used(name) for name in ("one", "two", "three")] == [100, 0, 0]
    await crowd.ask("waits", "four")
    expected = 112  # the prompt with it
    assert [crowd.usage.used(name) for name in ("one", "two", "three", "four")] == [100, expected, expected, 0]
    await crowd.end("a")
    assert [crowd.usage.used(name) for name in ("one", "two", "three", "four")] == [100, 100, expected, expected]
    await crowd.end("b", "waits")
    assert [crowd.usage.used(name) for name in ("one", "two", "three", "four")] == [100] * 4


async def test_many_that_are_over_are_charged_though_nobody_waits(crowd: Crowd) -> None:
    for number in range(520):
        await crowd.ask(f"n{number}", "ab"[number % 2])
        await crowd.end(f"n{number}")
    assert crowd.usage.added == [("a", 25_600), ("b", 25_500)]


async def test_requests_with_several_answers_take_several_places(fleet: Fleet, crowd: Crowd) -> None:
    await crowd.ask("many", n=5)
    await crowd.ask("next")
    assert crowd.order == ["many"]
    assert [replica.in_flight for replica in fleet.replicas_for(ECHO.public_name)] == [5]
    await crowd.end("many")
    assert crowd.order == ["many", "next"]


async def test_counting_tokens_waits_for_nobody(crowd: Crowd) -> None:
    await crowd.ask("a")
    await crowd.ask("b")
    await crowd.ask("count", endpoint="tokenize")
    assert crowd.order == ["a", "b", "count"]


async def test_a_fleet_that_loses_hope_tells_all_who_wait(fleet: Fleet) -> None:
    async with faulty() as served:
        served.engine.ill = "loading"
        config = DeploymentConfig(model="echo", engine="remote", url=served.url)
        await fleet.start([(config, ECHO)])
        crowd = Crowd(fleet, ManualClock())
        await crowd.ask("a")
        await crowd.ask("b")
        async with asyncio.timeout(30):
            await asyncio.wait(crowd._tasks.values())
        assert isinstance(crowd.failure("a"), ModelUnavailable)
        assert isinstance(crowd.failure("b"), ModelUnavailable)


async def test_who_waits_is_told_when_what_became_ready_cannot_do_it(fleet: Fleet) -> None:
    async with faulty() as served:
        served.engine.ill = "loading"
        deployment = DeploymentConfig(model="echo", engine="remote", url=served.url, modes=["embed"])
        await fleet.start([(deployment, ECHO)])
        crowd = Crowd(fleet, ManualClock())
        await crowd.ask("a")
        served.engine.ill = ""
        async with asyncio.timeout(30):
            await asyncio.wait(crowd._tasks.values())
        assert isinstance(crowd.failure("a"), UnsupportedFeature)

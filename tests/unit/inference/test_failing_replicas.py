"""Who gets a request: replicas that lose them, those that cannot do what is asked, those that are not there yet."""

import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest

from terascope.access.principal import Grant, Principal
from terascope.core.clock import SystemClock
from terascope.core.config import DeploymentConfig, ServerConfig
from terascope.core.errors import UnsupportedFeature
from terascope.core.models import Mode, ModelVersion, Task
from terascope.core.prices import Price
from terascope.core.projects import Qos
from terascope.engines.registry import engine_kind
from terascope.fleet.fleet import Fleet
from terascope.fleet.replica import Replica
from terascope.inference.place import Place
from terascope.inference.turns import Turns
from terascope.protocol.request import ModelRequest
from terascope.scheduler.breaker import MOST_LOST
from terascope.scheduler.usage import Usage
from terascope.testing.clock import ManualClock
from terascope.testing.faults import faulty
from terascope.testing.fleet import running_fleet, until

ECHO = ModelVersion("echo", "1", "digest", "echo:echo", "", Task.GENERATE, 0)


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with running_fleet(tmp_path, SystemClock(), engine_kind=engine_kind) as one:
        yield one


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def turns(fleet: Fleet, clock: ManualClock) -> Turns:
    return Turns(fleet, ServerConfig(wait_timeout_s=30), clock, Usage(math.inf, clock.monotonic), look_s=0.01)


def _echo(name: str, **more: Any) -> tuple[DeploymentConfig, ModelVersion]:
    return DeploymentConfig(model="echo", name=name, engine="echo", launcher="inprocess", **more), ECHO


async def _start(fleet: Fleet, *deployments: tuple[DeploymentConfig, ModelVersion], ready: int) -> None:
    await fleet.start(deployments)
    await until(fleet, lambda: len(fleet.replicas_for(ECHO.public_name)) == ready)


def _place(turns: Turns, mode: Mode = Mode.QUERY, qos: Qos = Qos.INTERACTIVE, **fields: Any) -> Place:
    endpoint = "embeddings" if mode is Mode.EMBED else "completions"
    grant = Grant(Principal("key_1", "someone", frozenset()), mode, ECHO.public_name, "a", qos, Price(1, 1))
    return turns.place(grant, ECHO, ModelRequest.read(endpoint, mode, orjson.dumps({"model": "echo", **fields})))


async def _names(turns: Turns, count: int) -> list[str]:
    """Which deployments so many requests at once go to."""
    async with AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(_place(turns).turn()) for _ in range(count)]
        return sorted(one.row.deployment for one in replicas)


async def _lose(turns: Turns, fleet: Fleet, *replicas: Replica) -> None:
    """Requests are lost one after the other, though the engine answers every probe."""
    for replica in replicas:
        for _ in range(MOST_LOST):
            turns.lost(replica)
    await until(fleet, lambda: all(one.takes_requests for one in replicas))


async def test_one_that_loses_requests_gets_one_now_and_then(fleet: Fleet, turns: Turns, clock: ManualClock) -> None:
    await _start(fleet, _echo("a"), _echo("b"), ready=2)
    [broken, _] = fleet.replicas_for(ECHO.public_name)
    assert await _names(turns, 4) == ["a", "a", "b", "b"]
    await _lose(turns, fleet, broken)
    assert await _names(turns, 4) == ["b"] * 4
    clock.advance(1.0)
    assert await _names(turns, 4) == ["a", "b", "b", "b"]
    turns.answered(broken)
    assert await _names(turns, 4) == ["a", "a", "b", "b"]


async def test_where_all_lose_requests_each_is_told_at_once(fleet: Fleet, turns: Turns) -> None:
    await _start(fleet, _echo("a"), _echo("b"), ready=2)
    await _lose(turns, fleet, *fleet.replicas_for(ECHO.public_name))
    assert await _names(turns, 4) == ["a", "a", "b", "b"]


async def test_a_request_that_is_lost_again_counts_once(fleet: Fleet, turns: Turns) -> None:
    """A request that takes its engine down with it is not three reasons against the engine."""
    await _start(fleet, _echo("a"), ready=1)
    [only] = fleet.replicas_for(ECHO.public_name)
    for again in (False, True, True):
        turns.lost(only, again=again)
    assert only.breaker.lost == 1


async def test_what_one_engine_lacks_goes_to_another(fleet: Fleet, turns: Turns) -> None:
    async with faulty() as served:
        able = DeploymentConfig(model="echo", name="able", engine="remote", url=served.url)
        await _start(fleet, _echo("echo"), (able, ECHO), ready=2)
        for _ in range(3):
            async with _place(turns, logit_bias={"1": 2}).turn() as replica:
                assert replica.row.deployment == "able"


async def test_what_the_only_engine_lacks_is_named_while_it_is_not_there_too(fleet: Fleet, turns: Turns) -> None:
    await _start(fleet, _echo("echo"), ready=1)
    for replicas in (1, 0):
        await fleet.scale("echo", replicas)
        while len(fleet.replicas_for(ECHO.public_name)) != replicas:
            await fleet.wait_for_change(ECHO.public_name)
        with pytest.raises(UnsupportedFeature, match="cannot do logit_bias on the engines that serve it"):
            async with _place(turns, logit_bias={"1": 2}).turn():
                raise AssertionError("nothing can do it")


async def test_what_is_not_there_yet_is_waited_for(fleet: Fleet, turns: Turns) -> None:
    """Only a deployment that is cold is for embeddings: it is started, and nothing is refused."""
    await _start(fleet, _echo("queries", modes=["query"]), _echo("embeds", modes=["embed"], min=0, max=1), ready=1)
    async with _place(turns, Mode.EMBED, input="hello").turn() as replica:
        assert replica.row.deployment == "embeds"
    async with _place(turns).turn() as replica:
        assert replica.row.deployment == "queries"


async def test_classes_of_service_have_deployments_of_their_own(fleet: Fleet, turns: Turns) -> None:
    await _start(fleet, _echo("night", qos=["batch"]), ready=1)
    async with _place(turns, qos=Qos.BATCH).turn() as replica:
        assert replica.row.deployment == "night"
    with pytest.raises(UnsupportedFeature, match="takes no requests of QOS interactive"):
        async with _place(turns).turn():
            raise AssertionError("it has no right to a turn")


async def test_a_reservation_keeps_replicas_up(fleet: Fleet, clock: ManualClock) -> None:
    """Nobody has asked yet, and its replicas are there."""
    usage = Usage(math.inf, clock.monotonic)
    Turns(fleet, ServerConfig(), clock, usage, reserved=lambda version, later_s: {"physics": 3})
    await _start(fleet, _echo("echo", min=0, max=4, max_in_flight=2), ready=2)
    assert fleet.count("echo").kept == 2

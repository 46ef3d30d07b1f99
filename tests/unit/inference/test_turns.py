"""A request gets a replica that can do what it asks, or waits, or is told why not."""

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from terascope.access.principal import Grant, Principal
from terascope.core.clock import SystemClock
from terascope.core.config import DeploymentConfig, ServerConfig
from terascope.core.errors import ModelNotFound, ModelUnavailable, UnsupportedFeature
from terascope.core.models import Mode, ModelVersion, Task
from terascope.engines.registry import engine_kind
from terascope.fleet.fleet import Fleet
from terascope.fleet.replica import Replica
from terascope.inference.turns import Turns
from terascope.protocol.request import ModelRequest
from terascope.scheduler.usage import Usage
from terascope.testing.faults import faulty
from terascope.testing.fleet import running_fleet, until

ECHO = ModelVersion("echo", "1", "digest", "echo:echo", "", Task.GENERATE, 0)
OTHER = ModelVersion("other", "1", "digest", "echo:other", "", Task.GENERATE, 0)


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with running_fleet(tmp_path, SystemClock(), engine_kind=engine_kind) as one:
        yield one


def echo(name: str = "echo", **more: Any) -> tuple[DeploymentConfig, ModelVersion]:
    return DeploymentConfig(model="echo", name=name, engine="echo", launcher="inprocess", **more), ECHO


def turns(fleet: Fleet, wait_timeout_s: float = 30.0) -> Turns:
    clock = SystemClock()
    return Turns(fleet, ServerConfig(wait_timeout_s=wait_timeout_s), clock, Usage(math.inf, clock.monotonic))


def request(endpoint: str = "completions", mode: Mode = Mode.QUERY, **fields: Any) -> ModelRequest:
    return ModelRequest.read(endpoint, mode, orjson.dumps({"model": "echo", **fields}))


def grant(version: ModelVersion = ECHO) -> Grant:
    return Grant(Principal("key_1", "someone", frozenset()), Mode.QUERY, version.public_name)


async def ready(fleet: Fleet, *deployments: tuple[DeploymentConfig, ModelVersion]) -> tuple[Replica, ...]:
    await fleet.start(deployments)
    await until(fleet, lambda: len(fleet.replicas_for(ECHO.public_name)) == len(deployments))
    return fleet.replicas_for(ECHO.public_name)


async def test_a_turn_is_counted_as_long_as_it_lasts(fleet: Fleet) -> None:
    [only] = await ready(fleet, echo())
    async with turns(fleet).place(grant(), ECHO, request()).turn() as replica:
        assert replica is only
        assert only.in_flight == 1
    assert only.in_flight == 0


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
async def test_a_turn_ends_however_it_ends(fleet: Fleet, error: type[BaseException]) -> None:
    [only] = await ready(fleet, echo())
    with pytest.raises(error):
        async with turns(fleet).place(grant(), ECHO, request()).turn():
            raise error
    assert only.in_flight == 0


async def test_requests_spread_over_replicas(fleet: Fleet) -> None:
    await ready(fleet, echo("a"), echo("b"))
    one = turns(fleet)
    async with (
        one.place(grant(), ECHO, request()).turn() as first,
        one.place(grant(), ECHO, request()).turn() as second,
    ):
        assert first is not second
        async with one.place(grant(), ECHO, request()).turn() as third:
            assert third in (first, second)


async def test_what_no_replica_can_do_is_named(fleet: Fleet) -> None:
    await ready(fleet, echo())
    for asked, lacking in ((request(logit_bias={"1": 2}), "logit_bias"), (request("responses"), "responses")):
        with pytest.raises(UnsupportedFeature, match=lacking):
            async with turns(fleet).place(grant(), ECHO, asked).turn():
                pass


async def test_a_deployment_is_used_for_its_modes_only(fleet: Fleet) -> None:
    embeds, queries = await ready(fleet, echo("a", modes=["embed"]), echo("b", modes=["query"]))
    async with turns(fleet).place(grant(), ECHO, request("completions", Mode.QUERY)).turn() as replica:
        assert replica is queries
    async with turns(fleet).place(grant(), ECHO, request("embeddings", Mode.EMBED)).turn() as replica:
        assert replica is embeds


async def test_vectors_in_place_of_text_need_a_deployment_for_both_modes(fleet: Fleet) -> None:
    await ready(fleet, echo(modes=["query"]))
    for asked in (request(prompt_embeds="AAAA"), request(model="echo+tone", prompt="a")):
        with pytest.raises(UnsupportedFeature, match="not there for embed and query"):
            async with turns(fleet).place(grant(), ECHO, asked).turn():
                raise AssertionError("it has no right to a turn")


async def test_a_model_that_nobody_serves_is_not_waited_for(fleet: Fleet) -> None:
    await ready(fleet, echo())
    with pytest.raises(ModelNotFound):
        async with turns(fleet).place(grant(OTHER), OTHER, request()).turn():
            pass


async def test_a_request_waits_for_the_first_replica(fleet: Fleet) -> None:
    async with faulty() as served:
        served.engine.ill = "loading"
        config = DeploymentConfig(model="echo", engine="remote", url=served.url)
        await fleet.start([(config, ECHO)])

        async def take() -> str:
            async with turns(fleet).place(grant(), ECHO, request()).turn() as replica:
                return replica.row.deployment

        waiting = [asyncio.create_task(take()) for _ in range(3)]
        cancelled = waiting.pop()
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        cancelled.cancel()
        served.engine.ill = ""
        assert await asyncio.gather(*waiting) == ["echo", "echo"]
        assert cancelled.cancelled()
        assert [one.in_flight for one in fleet.replicas_for(ECHO.public_name)] == [0]


async def test_waiting_has_the_operators_limit(fleet: Fleet) -> None:
    async with faulty() as served:
        served.engine.ill = "loading"
        await fleet.start([(DeploymentConfig(model="echo", engine="remote", url=served.url), ECHO)])
        with pytest.raises(ModelUnavailable, match=r"no replica of echo@1 became ready in 0.05 s") as caught:
            async with turns(fleet, wait_timeout_s=0.05).place(grant(), ECHO, request()).turn():
                pass
        assert caught.value.retry_after == 60


async def test_a_replica_that_was_lost_gets_nothing_until_it_answers(fleet: Fleet) -> None:
    async with faulty() as served:
        [only] = await ready(fleet, (DeploymentConfig(model="echo", engine="remote", url=served.url), ECHO))
        one = turns(fleet)
        served.engine.ill = "confused"
        one.lost(only)
        assert fleet.replicas_for(ECHO.public_name) == ()
        served.engine.ill = ""
        async with one.place(grant(), ECHO, request()).turn() as replica:
            assert replica is only

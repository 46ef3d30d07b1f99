"""A fleet that follows the load: real programs, and demand as the test says."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from terascope.core.bounds import Bounds
from terascope.core.config import DeploymentConfig
from terascope.core.errors import ConfigError
from terascope.core.models import Mode, ModelVersion
from terascope.core.projects import Qos
from terascope.core.states import ReplicaStatus
from terascope.fleet.demand import Demand, Waiting
from terascope.fleet.fleet import Fleet
from terascope.fleet.reconciler import Limits
from terascope.fleet.scaling import LOOK_S
from terascope.store.starts import StartStore
from terascope.testing.clock import ManualClock
from terascope.testing.fleet import running_fleet, until
from terascope.testing.small_engine import small_deployment

MODEL = "small@1"
ASKS = Waiting(("completions", frozenset({Mode.QUERY}), frozenset()), Qos.INTERACTIVE, 1, 0.0)


@pytest.fixture
def clock() -> ManualClock:
    """Short pauses between probes are real; looks at the load and idle times pass when the test says so."""
    return ManualClock(real_below_s=0.9)


@pytest.fixture
async def fleet(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Fleet]:
    seldom = Limits(health_s=1e6, probe_s=1e6)  # so that nothing but the looks sleeps for a second
    async with running_fleet(tmp_path, clock, limits=seldom) as fleet:
        yield fleet


def elastic(name: str = "small", /, **settings: object) -> tuple[DeploymentConfig, ModelVersion]:
    """None to three replicas of one request each."""
    config, version = small_deployment("small")
    wanted = {"name": name, "min": 0, "max": 3, "idle_s": 10.0, "max_in_flight": 1} | settings
    return replace(config, **wanted), version  # type: ignore[arg-type]  # settings by name


def asks(fleet: Fleet, count: int) -> None:
    """So many requests wait from now on."""
    waiting = (replace(ASKS, places=count),) if count else ()
    fleet.scaling.demands = lambda version: Demand(waiting)
    fleet.scaling.stir()


async def ready(fleet: Fleet, count: int) -> None:
    await until(fleet, lambda: len(fleet.replicas_for(MODEL)) == count)


async def idle(clock: ManualClock, seconds: float) -> None:
    """Let time pass in which the fleet looks every second."""
    for _ in range(int(seconds / LOOK_S)):
        await clock.slept(LOOK_S)
        clock.advance(LOOK_S)


async def test_from_none_up_and_down_to_none(fleet: Fleet, clock: ManualClock) -> None:
    await fleet.start([elastic()])
    assert (fleet.state(MODEL), fleet.states()) == ("cold", {"small": "cold"})
    assert fleet.check_hope(MODEL, ASKS), "a request waits, and is not refused"
    assert fleet.coming_s(MODEL) is None, "no start has told yet"
    await fleet.settled()
    asks(fleet, 2)
    await ready(fleet, 2)
    assert fleet.count("small").kept == 2
    busy, other = fleet.replicas_for(MODEL)
    busy.occupy(1)
    asks(fleet, 0)
    await idle(clock, 16)
    await until(fleet, lambda: other.row.status.final)
    assert fleet.replicas_for(MODEL) == (busy,), "what is busy stays"
    busy.free(1)
    await idle(clock, 16)
    await until(fleet, lambda: busy.row.status.final)
    assert fleet.state(MODEL) == "cold"
    assert len(await StartStore(fleet._store._database).all()) == 2, "the next is told how long these took"
    asks(fleet, 1)
    await ready(fleet, 1)


async def test_one_that_is_taken_away_finishes_its_answer(fleet: Fleet, clock: ManualClock) -> None:
    await fleet.start([elastic()])
    asks(fleet, 1)
    await ready(fleet, 1)
    [replica] = fleet.replicas_for(MODEL)
    asks(fleet, 0)
    replica.occupy(1)
    await fleet.bound("small", Bounds(0, 0))
    await until(fleet, lambda: replica.row.status is ReplicaStatus.DRAINING)
    replica.free(1)
    await until(fleet, lambda: replica.row.status is ReplicaStatus.STOPPED)
    assert fleet.state(MODEL) == "stopped", "and no request starts it again"


async def test_short_requests_between_two_looks_count(fleet: Fleet, clock: ManualClock) -> None:
    """A load that a look never meets is a load all the same."""
    await fleet.start([elastic()])
    asks(fleet, 1)
    await ready(fleet, 1)
    asks(fleet, 0)
    [replica] = fleet.replicas_for(MODEL)
    for _ in range(25):
        replica.occupy(1)
        replica.free(1)
        await idle(clock, LOOK_S)
    assert fleet.replicas_for(MODEL) == (replica,)


async def test_only_deployments_for_a_request_grow_for_it(fleet: Fleet) -> None:
    embeds = elastic("embeds", modes=["embed"])
    batch = elastic("batch", qos=["batch"])
    await fleet.start([embeds, batch, elastic("queries")])
    asks(fleet, 1)
    await ready(fleet, 1)
    assert [one.row.deployment for one in fleet.replicas_for(MODEL)] == ["queries"]
    assert not fleet.check_hope(MODEL, replace(ASKS, kind=("traces", frozenset({Mode.TUNE}), frozenset())))


async def test_a_look_that_fails_ends_nothing(fleet: Fleet) -> None:
    await fleet.start([elastic()])

    def broken(version: ModelVersion) -> Demand:
        raise RuntimeError("nobody knows")

    fleet.scaling.demands = broken
    fleet.scaling.stir()
    await asyncio.sleep(0)
    asks(fleet, 1)
    await ready(fleet, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min": 3, "max": 2}, "`min` is 3 and `max` 2"),
        ({"min": -1}, "`min` is -1"),
        ({"hot": 4}, "`hot` is 4; write 0 to 3"),
        ({"idle_s": 0.0}, "`idle_s` is 0"),
        ({"qos": ["slow"]}, "no QOS 'slow'; choose from urgent, interactive, batch"),
    ],
)
async def test_numbers_that_contradict_each_other(fleet: Fleet, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        await fleet.start([elastic(**settings)])


@pytest.mark.parametrize(
    ("settings", "least", "most"),
    [
        ({}, 1, 1),
        ({"replicas": 3}, 3, 3),
        ({"min": 0}, 0, 1),
        ({"max": 4}, 1, 4),
        ({"min": 2}, 2, 2),
        ({"replicas": 2, "max": 4}, 2, 4),
        ({"replicas": 5, "max": 4}, 4, 4),
        ({"min": 0, "max": 0}, 0, 0),
    ],
)
def test_what_is_not_said_follows_from_replicas(settings: dict[str, int], least: int, most: int) -> None:
    bounds = DeploymentConfig(**settings).bounds  # type: ignore[arg-type]  # settings by name
    assert (bounds.least, bounds.most) == (least, most)

"""A replica as the request path sees it."""

import asyncio
from dataclasses import replace

import pytest

from terascope.core.states import ReplicaStatus
from terascope.engines.contract import Endpoint, Launch
from terascope.fleet.replica import Replica
from terascope.store.replicas import ReplicaRow
from terascope.testing.small_engine import SmallEngine, small_deployment


@pytest.fixture
def replica() -> Replica:
    endpoint = Endpoint("unix:/nowhere", "secret")
    row = ReplicaRow("replica_1", "small", "small@1", "small", "local", ReplicaStatus.READY)
    return Replica(row, Launch(*small_deployment()), endpoint, SmallEngine(endpoint))


@pytest.mark.parametrize("status", ReplicaStatus)
@pytest.mark.parametrize("suspect", [True, False])
def test_only_ready_and_trusted_replicas_take_requests(status: ReplicaStatus, suspect: bool, replica: Replica) -> None:
    replica.row = replace(replica.row, status=status)
    replica.suspect = suspect
    assert replica.takes_requests is (status is ReplicaStatus.READY and not suspect)


async def test_idle_when_nothing_is_in_flight(replica: Replica) -> None:
    await replica.idle()
    replica.occupy(1)
    replica.occupy(1)
    waiting = asyncio.create_task(replica.idle())
    replica.free(1)
    await asyncio.sleep(0)
    assert not waiting.done()
    replica.free(1)
    await waiting
    assert replica.in_flight == 0


async def test_all_who_wait_are_told_though_another_request_came_between(replica: Replica) -> None:
    replica.occupy(1)
    waiting = [asyncio.create_task(replica.idle()) for _ in range(2)]
    await asyncio.sleep(0)
    replica.free(1)
    replica.occupy(1)  # before either of them could run
    await asyncio.sleep(0)
    assert not any(one.done() for one in waiting)
    replica.free(1)
    async with asyncio.timeout(5):
        await asyncio.gather(*waiting)


def test_before_it_answers_it_can_do_nothing(replica: Replica) -> None:
    assert replica.lacks("completions", frozenset({"seed"})) == {"completions", "seed"}
    assert not replica.can("completions", frozenset())
    assert (replica.id, replica.served_name, replica.engine_label) == ("replica_1", "small@1", "small")

"""Rows of replicas."""

import asyncio
from dataclasses import replace

import pytest

from terascope.core.states import ReplicaStatus, ReplicaTarget
from terascope.store.database import Database
from terascope.store.replicas import KEPT_EVENTS, ReplicaRow, ReplicaStore

ROW = ReplicaRow(
    "replica_1",
    "small",
    "small@1",
    "torch",
    "local",
    url="unix:/run/1.sock",
    handle={"pid": 7, "boot": "a"},
    message="is being started",
    restarts=2,
    created=1.5,
    changed=2.5,
)


@pytest.fixture
def store(database: Database) -> ReplicaStore:
    return ReplicaStore(database)


async def test_a_row_comes_back_as_it_was(store: ReplicaStore) -> None:
    await store.add(ROW)
    assert await store.get("replica_1") == ROW
    assert await store.get("replica_2") is None


async def test_updating_replaces_one_row(store: ReplicaStore) -> None:
    other = replace(ROW, id="replica_2", deployment="other")
    await store.add(ROW)
    await store.add(other)
    changed = replace(ROW, status=ReplicaStatus.READY, target=ReplicaTarget.STOPPED, handle={"job": 9}, message="ready")
    await store.update(changed)
    assert await store.of("small") == [changed]
    assert await store.of("other") == [other]


@pytest.mark.parametrize("status", ReplicaStatus)
async def test_unfinished_are_those_behind_which_something_may_run(status: ReplicaStatus, store: ReplicaStore) -> None:
    row = replace(ROW, status=status)
    await store.add(row)
    assert await store.unfinished() == ([] if status.final else [row])


async def test_pruning_spares_the_newest_and_the_unfinished(store: ReplicaStore) -> None:
    for number in range(6):
        status = ReplicaStatus.READY if number == 1 else ReplicaStatus.FAILED
        await store.add(replace(ROW, id=f"replica_{number}", status=status))
    await store.add(replace(ROW, id="replica_0a", deployment="other", status=ReplicaStatus.FAILED))
    assert sorted(await store.prune("small", 2)) == ["replica_0", "replica_2", "replica_3"]
    assert [row.id for row in await store.of("small")] == ["replica_1", "replica_4", "replica_5"]
    assert len(await store.of("other")) == 1
    assert await store.prune("small", 2) == []


async def test_every_new_status_is_an_event(store: ReplicaStore) -> None:
    await store.add(ROW)
    await store.update(replace(ROW, message="loads", changed=3.0))  # no new status: no event
    await store.update(replace(ROW, status=ReplicaStatus.STARTING, message="is being started", changed=4.0))
    await store.update(replace(ROW, status=ReplicaStatus.FAILED, message="was killed by SIGKILL", changed=5.0))
    found = await store.events("small", 10)
    assert [(one.status, one.time, one.message) for one in found] == [
        ("failed", 5.0, "was killed by SIGKILL"),
        ("starting", 4.0, "is being started"),
        ("pending", 2.5, "is being started"),
    ]
    assert {one.replica for one in found} == {"replica_1"}
    assert await store.events("small", 1) == found[:1]
    assert await store.events("other", 10) == []


async def test_steps_of_one_batch_are_events_of_their_own(store: ReplicaStore) -> None:
    await store.add(ROW)
    statuses = (ReplicaStatus.STARTING, ReplicaStatus.VERIFYING)
    steps = [replace(ROW, status=status, changed=3.0 + at) for at, status in enumerate(statuses)]
    await asyncio.gather(*(store.update(one) for one in steps))
    assert [one.status for one in await store.events("small", 10)] == ["verifying", "starting", "pending"]


async def test_the_newest_events_are_kept(store: ReplicaStore) -> None:
    rows = [replace(ROW, id=f"replica_{number}", changed=float(number)) for number in range(KEPT_EVENTS + 5)]
    await asyncio.gather(*(store.add(one) for one in rows))
    await store.add(replace(ROW, id="elsewhere", deployment="other"))
    await store.prune("small", 20)
    kept = await store.events("small", 2 * KEPT_EVENTS)
    assert (len(kept), kept[0].replica) == (KEPT_EVENTS, rows[-1].id)
    assert len(await store.events("other", 10)) == 1

"""A fleet whose launchers and engines fail in named ways."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from terascope.core.clock import Clock
from terascope.core.errors import ModelUnavailable
from terascope.core.states import ReplicaStatus
from terascope.fleet.launchers.contract import Launcher
from terascope.fleet.launchers.inprocess import InProcessLauncher
from terascope.fleet.launchers.local import LocalLauncher
from terascope.fleet.launchers.processes import marked
from terascope.fleet.reconciler import Limits
from terascope.store.replicas import ReplicaRow
from terascope.testing.clock import ManualClock
from terascope.testing.disks import possible, small_disk
from terascope.testing.fleet import running_fleet, until
from terascope.testing.launcher_faults import (
    BreakingLauncher,
    ForgetfulLauncher,
    QueueingLauncher,
    RefusingLauncher,
    UnstoppingLauncher,
)
from terascope.testing.small_engine import small_deployment

MODEL = "small@1"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(real_below_s=0.9)


def _with(local: Launcher) -> dict[str, Launcher]:
    return {"local": local, "inprocess": InProcessLauncher()}


def _local(clock: Clock) -> LocalLauncher:
    return LocalLauncher(clock, orphan_grace_s=0.1)


async def test_absence_is_not_evidence(tmp_path: Path, clock: ManualClock) -> None:
    """A scheduler that knows nothing of a job does not make a replica that answers fail."""
    launcher = ForgetfulLauncher(_local(clock))
    async with running_fleet(tmp_path, clock, launchers=_with(launcher)) as fleet:
        await fleet.start([small_deployment()])
        await until(fleet, lambda: fleet.replicas_for(MODEL))
        [replica] = fleet.replicas_for(MODEL)
        fleet.report_lost(replica)
        await until(fleet, lambda: fleet.replicas_for(MODEL))
        assert fleet.replicas_for(MODEL) == (replica,)
        assert replica.row.status is ReplicaStatus.READY
    assert marked(replica.id) == []


@pytest.mark.parametrize("steps", [1, 2])
async def test_a_start_that_breaks_off_leaves_nothing(steps: int, tmp_path: Path, clock: ManualClock) -> None:
    launcher, limits = BreakingLauncher(_local(clock), steps=steps), Limits(grace_s=0.2)
    async with running_fleet(tmp_path, clock, launchers=_with(launcher), limits=limits) as fleet:
        await fleet.start([small_deployment(behaviour="family")])
        await clock.slept(1.0)
        [row] = await fleet._store.of("small")
        assert row.status == "failed"
        assert row.handle != {}
        assert marked(row.id) == []
        clock.advance(1.0)
        await until(fleet, lambda: fleet.replicas_for(MODEL))


async def test_a_refused_start_is_tried_again(tmp_path: Path, clock: ManualClock) -> None:
    launcher = RefusingLauncher(_local(clock), times=2)
    async with running_fleet(tmp_path, clock, launchers=_with(launcher)) as fleet:
        await fleet.start([small_deployment()])
        await clock.slept(1.0)
        assert fleet.status(MODEL).message == "could not be started: the partition takes no jobs"
        clock.advance(1.0)
        await clock.slept(2.0)
        clock.advance(2.0)
        await until(fleet, lambda: fleet.replicas_for(MODEL))


@pytest.mark.skipif(not possible(), reason="this machine lets nobody mount a disk in a namespace of their own")
async def test_an_engine_that_fills_its_disk_says_which(tmp_path: Path, clock: ManualClock) -> None:
    """The others go on, and so does it once there is room."""
    with small_disk(64 << 10) as disk:
        config, version = small_deployment("hungry", behaviour="fills", gate=str(tmp_path / "gate"))
        hungry = replace(config, environment={"XDG_CACHE_HOME": str(disk)})
        async with running_fleet(tmp_path, clock, launchers=_with(_local(clock))) as fleet:
            await fleet.start([small_deployment(), (hungry, version)])
            await clock.slept(1.0)
            await until(fleet, lambda: fleet.replicas_for(MODEL))
            words = "ended with exit code 1: OSError: [Errno 28] No space left on device; no room is left in"
            assert fleet.count("hungry").message == f"{words} {disk}"
            events = await fleet._store.events("hungry", 9)
            assert ("failed", f"{words} {disk}") in {(one.status, one.message) for one in events}
            (disk / "cache").unlink()
            (tmp_path / "gate").touch()
            clock.advance(1.0)
            await until(fleet, lambda: fleet.replicas_for("hungry@1"))


async def test_what_cannot_be_stopped_is_tried_again(tmp_path: Path, clock: ManualClock) -> None:
    launcher = UnstoppingLauncher(_local(clock), times=2)
    async with running_fleet(tmp_path, clock, launchers=_with(launcher)) as fleet:
        await fleet.start([small_deployment(behaviour="dies")])
        await clock.slept(1.0)
        [row] = await fleet._store.of("small")
        assert row.status == "starting", "not failed before it is known that nothing is left"
        assert row.message == "cannot be stopped yet: the scheduler does not answer"
        clock.advance(1.0)
        await clock.slept(2.0)
        clock.advance(2.0)
        await until(fleet, lambda: "weights are not there" in fleet.status(MODEL).message)
        [row] = await fleet._store.of("small")
        assert row.status == "failed"


async def test_what_cannot_be_stopped_at_the_end_is_left_to_the_next_life(tmp_path: Path, clock: ManualClock) -> None:
    launcher = UnstoppingLauncher(_local(clock), times=3)
    async with running_fleet(tmp_path, clock, launchers=_with(launcher)) as fleet:
        await fleet.start([small_deployment()])
        await until(fleet, lambda: fleet.replicas_for(MODEL))
        [left] = fleet.replicas_for(MODEL)
        closing = asyncio.create_task(fleet.aclose())
        for pause in (1.0, 2.0):
            await clock.slept(pause)
            clock.advance(pause)
        await closing
        assert left.row.status is ReplicaStatus.DRAINING
        assert marked(left.id) != []
    async with running_fleet(tmp_path, clock, launchers=_with(launcher)) as fleet:
        await fleet.start([small_deployment()])
        await until(fleet, lambda: fleet.replicas_for(MODEL))
        assert marked(left.id) == []
        row = await fleet._store.get(left.id)
        assert row is not None
        assert (row.status, row.message) == ("stopped", "was left by an earlier life of the gateway")


async def test_rows_of_a_launcher_that_is_not_there_any_more_stay(tmp_path: Path, clock: ManualClock) -> None:
    async with running_fleet(tmp_path, clock) as fleet:
        old = ReplicaRow("replica_old", "gone", "gone@1", "small", "cloud", ReplicaStatus.READY, handle={"job": 7})
        await fleet._store.add(old)
        await fleet.start([small_deployment()])
        await until(fleet, lambda: fleet.replicas_for(MODEL))
        assert await fleet._store.get("replica_old") == old


async def test_an_outside_engine_needs_no_process(tmp_path: Path, clock: ManualClock) -> None:
    switch = tmp_path / "switch"
    switch.touch()
    async with running_fleet(tmp_path, clock) as fleet:
        await fleet.start([small_deployment(engine="outside", url=str(switch))])
        await until(fleet, lambda: fleet.replicas_for(MODEL))
        [replica] = fleet.replicas_for(MODEL)
        assert replica.row.launcher == "inprocess"
        assert replica.endpoint.url == str(switch)
    assert replica.row.status is ReplicaStatus.STOPPED


async def test_an_outside_engine_that_is_away_soon_lets_nobody_wait(tmp_path: Path) -> None:
    """There is nothing to load: after ten seconds requests are refused, and each attempt may bring it back."""
    clock = ManualClock(real_below_s=0.3)
    switch = tmp_path / "switch"
    switch.touch()
    async with running_fleet(tmp_path, clock) as fleet:
        await fleet.start([small_deployment(engine="outside", url=str(switch))])
        await until(fleet, lambda: fleet.replicas_for(MODEL))
        [replica] = fleet.replicas_for(MODEL)
        switch.unlink()
        fleet.report_lost(replica)
        fleet.check_hope(MODEL)
        for pause in (0.4, 0.8, 1.6, 3.2, 5.0):
            await clock.slept(pause)
            assert replica.row.status is ReplicaStatus.READY
            clock.advance(pause)
        await until(fleet, lambda: replica.row.status is ReplicaStatus.FAILED)
        await clock.slept(1.0)
        with pytest.raises(ModelUnavailable, match="has not answered for 10 s"):
            fleet.check_hope(MODEL)
        switch.touch()
        await clock.slept(1.0)
        clock.advance(1.0)
        await until(fleet, lambda: fleet.replicas_for(MODEL))
        fleet.check_hope(MODEL)


async def test_waiting_in_a_queue_is_not_counted(tmp_path: Path, clock: ManualClock) -> None:
    """A replica may take 1800 s to start; its job waits for longer before it begins."""
    launcher = QueueingLauncher(_local(clock), tmp_path, queue="waits in the queue: Priority 0")
    async with running_fleet(tmp_path, clock, launchers=_with(launcher)) as fleet:
        said: list[ReplicaRow] = []
        fleet.listen(lambda row, _: said.append(row))
        await fleet.start([small_deployment(behaviour="never")])
        for number in range(1, 4):
            await until(fleet, lambda: said and said[-1].message == launcher.queue)
            clock.advance(1000.0)
            launcher.queue = f"waits in the queue: Priority {number}"
        await until(fleet, lambda: said[-1].message == launcher.queue)
        assert {row.status for row in said} == {ReplicaStatus.STARTING}
        launcher.queue = ""
        await until(fleet, lambda: said[-1].message == "does not listen yet")
        clock.advance(1800.0)
        await until(fleet, lambda: ReplicaStatus.FAILED in {row.status for row in said})

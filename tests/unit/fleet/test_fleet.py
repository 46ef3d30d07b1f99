"""A fleet with real programs: it starts them, watches them, starts them anew, stops them."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from terascope.core.config import DeploymentConfig
from terascope.core.errors import ConfigError, ModelNotFound, ModelUnavailable
from terascope.core.states import ReplicaStatus, ReplicaTarget
from terascope.fleet.fleet import KEPT_ROWS, Fleet
from terascope.fleet.launchers.processes import marked
from terascope.fleet.reconciler import Limits
from terascope.fleet.replica import Replica
from terascope.store.replicas import ReplicaRow
from terascope.testing.clock import ManualClock
from terascope.testing.fleet import running_fleet, until
from terascope.testing.small_engine import small_deployment

MODEL = "small@1"


@pytest.fixture
def clock() -> ManualClock:
    """Short pauses between probes are real; back-off and limits pass only when the test says so."""
    return ManualClock(real_below_s=0.9)


@pytest.fixture
async def fleet(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Fleet]:
    async with running_fleet(tmp_path, clock) as fleet:
        yield fleet


async def _ready(fleet: Fleet, count: int = 1) -> tuple[Replica, ...]:
    await until(fleet, lambda: len(fleet.replicas_for(MODEL)) == count)
    return fleet.replicas_for(MODEL)


def _kill(replica: Replica, number: signal.Signals = signal.SIGKILL) -> None:
    os.kill(int(replica.row.handle["program"]), number)


async def _rows(fleet: Fleet, name: str = "small") -> list[ReplicaRow]:
    return await fleet._store.of(name)


async def test_a_replica_becomes_ready(fleet: Fleet, tmp_path: Path) -> None:
    seen: list[tuple[ReplicaStatus, str]] = []
    fleet.listen(lambda row, message: seen.append((row.status, message)))
    await fleet.start([small_deployment()])
    assert fleet.state(MODEL) == "starting"
    assert fleet.states() == {"small": "starting"}
    [replica] = await _ready(fleet)
    await until(fleet, lambda: (ReplicaStatus.READY, "ready") in seen)
    assert len(seen) == len(set(seen)), "only news are told"
    assert list(dict.fromkeys(status for status, _ in seen)) == ["starting", "verifying", "ready"]
    assert fleet.states() == {"small": "ready"}
    assert (replica.engine_label, replica.served_name, replica.in_flight) == ("small 1.0", MODEL, 0)
    assert replica.can("completions", frozenset({"seed"}))
    assert replica.lacks("embeddings", frozenset({"tools"})) == {"embeddings", "tools"}
    [row] = await _rows(fleet)
    assert row == replica.row
    assert (row.status, row.target, row.launcher, row.engine) == ("ready", "ready", "local", "small")


async def test_what_the_fleet_tells_of_a_model(fleet: Fleet) -> None:
    await fleet.start([small_deployment()])
    assert fleet.context_length(MODEL) == 0
    await _ready(fleet)
    assert fleet.served() == {MODEL}
    assert fleet.modes(MODEL) == {"query"}, "its engine has no embeddings, whatever the deployment allows"
    assert fleet.context_length(MODEL) == 512
    assert [one.name for one in fleet.deployments_for(MODEL)] == ["small"]
    assert fleet.state("other@1") == "stopped"
    fleet.check_hope(MODEL)
    with pytest.raises(ModelNotFound, match="is not served here"):
        fleet.check_hope("other@1")


async def test_settled_is_ready_or_without_hope(fleet: Fleet, clock: ManualClock, tmp_path: Path) -> None:
    outside = str(tmp_path / "not there")
    await fleet.start([small_deployment(), small_deployment("other", engine="outside", url=outside)])
    settled = asyncio.create_task(fleet.settled())
    await _ready(fleet)
    await clock.slept(10.01)
    assert not settled.done()
    clock.advance(10.01)
    await settled
    assert fleet.states() == {"small": "ready", "other": "failed"}


async def test_only_our_user_reaches_a_replica(fleet: Fleet, tmp_path: Path) -> None:
    await fleet.start([small_deployment()])
    [replica] = await _ready(fleet)
    assert len(replica.endpoint.secret) >= 32
    assert replica.endpoint.secret not in repr(replica.endpoint) + str(await _rows(fleet))
    _check_privacy(replica)


def _check_privacy(replica: Replica) -> None:
    path = Path(replica.endpoint.url.removeprefix("unix:"))
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o077 == 0
    command = Path(f"/proc/{replica.row.handle['program']}/cmdline").read_bytes()
    assert replica.endpoint.secret.encode() not in command


async def test_two_replicas_have_two_programs(fleet: Fleet) -> None:
    await fleet.start([small_deployment(replicas=2)])
    one, other = await _ready(fleet, 2)
    assert one.endpoint.url != other.endpoint.url
    assert one.endpoint.secret != other.endpoint.secret
    assert one.row.handle["program"] != other.row.handle["program"]


async def test_ready_are_those_of_all_models_and_those_in_doubt(fleet: Fleet) -> None:
    await fleet.start([small_deployment(replicas=2), small_deployment("other"), small_deployment("idle", replicas=0)])
    assert fleet.ready() == ()
    await fleet.settled()
    small = await _ready(fleet, 2)
    [other] = fleet.replicas_for("other@1")
    assert fleet.ready() == (*small, other)
    other.suspect = True
    assert fleet.ready() == (*small, other)
    _kill(small[0])
    await until(fleet, lambda: small[0].row.status is ReplicaStatus.FAILED)
    assert fleet.ready() == (small[1], other)


async def test_a_killed_worker_is_seen_at_once_and_started_anew(fleet: Fleet, clock: ManualClock) -> None:
    """No time passes on the clock until the death is known: it is an event, nothing polls for it."""
    await fleet.start([small_deployment()])
    [first] = await _ready(fleet)
    before = clock.monotonic()
    _kill(first)
    await until(fleet, lambda: not fleet.replicas_for(MODEL))
    await until(fleet, lambda: first.row.status is ReplicaStatus.FAILED)
    assert clock.monotonic() == before
    assert first.row.message == "was killed by SIGKILL: engine starts"
    assert fleet.state(MODEL) == "starting"
    await clock.slept(1.0)
    clock.advance(1.0)
    [second] = await _ready(fleet)
    assert second is not first
    assert second.row.restarts == 1
    assert [row.status for row in await _rows(fleet)] == ["failed", "ready"]


async def test_waiting_requests_go_on_when_a_replica_is_back(fleet: Fleet, clock: ManualClock) -> None:
    await fleet.start([small_deployment()])
    [first] = await _ready(fleet)
    _kill(first)
    await until(fleet, lambda: not fleet.replicas_for(MODEL))
    request = asyncio.create_task(fleet.wait_for_change(MODEL))
    await clock.slept(1.0)
    assert not request.done()
    clock.advance(1.0)
    await request
    assert len(fleet.replicas_for(MODEL)) == 1


async def test_the_back_off_grows_and_is_forgotten_after_ten_minutes_of_health(
    fleet: Fleet, clock: ManualClock
) -> None:
    await fleet.start([small_deployment()])
    for pause in (1.0, 2.0, 4.0):
        [replica] = await _ready(fleet)
        _kill(replica)
        await clock.slept(pause)
        assert fleet.state(MODEL) == "starting", "a replica that was ready loses no hope"
        clock.advance(pause)
    [replica] = await _ready(fleet)
    clock.advance(600.0)
    _kill(replica)
    await clock.slept(1.0)


async def test_who_keeps_dying_at_load_is_given_up_but_tried_again(
    fleet: Fleet, clock: ManualClock, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    await fleet.start([small_deployment(behaviour="dies", gate=str(gate))])
    request = asyncio.create_task(fleet.wait_for_change(MODEL))
    for pause in (1.0, 2.0, 4.0, 8.0):
        await clock.slept(pause)
        fleet.check_hope(MODEL)
        clock.advance(pause)
    await request
    serving = fleet.status(MODEL)
    reason = "ended with exit code 1: RuntimeError: the weights are not there, whispers ***"
    assert (serving.state, serving.message) == ("failed", reason)
    with pytest.raises(ModelUnavailable, match="the weights are not there") as refusal:
        fleet.check_hope(MODEL)
    assert refusal.value.retry_after == 16.0
    gate.touch()
    await clock.slept(16.0)
    clock.advance(16.0)
    await _ready(fleet)
    fleet.check_hope(MODEL)
    [replica] = fleet.replicas_for(MODEL)
    _kill(replica)
    await clock.slept(32.0)
    fleet.check_hope(MODEL)


async def test_loading_is_told(fleet: Fleet, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    await fleet.start([small_deployment(behaviour="loads", gate=str(gate))])
    await until(fleet, lambda: fleet.status(MODEL).message == "loads weights, 40 %")
    assert fleet.replicas_for(MODEL) == ()
    gate.touch()
    await _ready(fleet)
    assert fleet.status(MODEL).message == "ready"


async def test_who_never_answers_is_started_anew(fleet: Fleet, clock: ManualClock) -> None:
    await fleet.start([small_deployment(behaviour="never")])
    await until(fleet, lambda: fleet.status(MODEL).message == "does not listen yet")
    await clock.slept(1800.01)
    clock.advance(1800.01)
    await clock.slept(1.0)
    assert fleet.status(MODEL).message.startswith("did not answer within 1800 s of its start")
    [row] = await _rows(fleet)
    assert row.status == "failed"
    assert marked(row.id) == []


async def test_a_doubt_is_cleared_by_a_probe(fleet: Fleet) -> None:
    await fleet.start([small_deployment()])
    [replica] = await _ready(fleet)
    fleet.report_lost(replica)
    assert fleet.replicas_for(MODEL) == ()
    fleet.check_hope(MODEL)
    assert await _ready(fleet) == (replica,)


async def test_one_that_answers_probes_and_no_request_is_replaced(fleet: Fleet, clock: ManualClock) -> None:
    await fleet.start([small_deployment()])
    [replica] = await _ready(fleet)
    for _ in range(20):
        replica.breaker.failed(clock.monotonic())
    fleet.report_lost(replica)
    await until(fleet, lambda: replica.row.status is ReplicaStatus.FAILED)
    assert replica.row.message.startswith("answers probes, but has lost its last 20 requests")
    await clock.slept(1.0)
    clock.advance(1.0)
    [other] = await _ready(fleet)
    assert other is not replica


async def test_an_engine_that_hangs_is_replaced(tmp_path: Path, clock: ManualClock) -> None:
    async with running_fleet(tmp_path, clock, limits=Limits(grace_s=0.1)) as fleet:
        await fleet.start([small_deployment()])
        [replica] = await _ready(fleet)
        _kill(replica, signal.SIGSTOP)
        fleet.report_lost(replica)
        for _ in range(8):  # the pause since the last probe, then seven that wait for an answer
            await clock.slept(10.0)
            assert replica.row.status is ReplicaStatus.READY
            assert not replica.takes_requests
            clock.advance(10.0)
        await until(fleet, lambda: replica.row.status is ReplicaStatus.FAILED)
        assert replica.row.message.startswith("has not answered for 60 s")
        assert marked(replica.id) == []


async def test_a_replica_without_its_check_gets_no_requests(tmp_path: Path, clock: ManualClock) -> None:
    asked: asyncio.Queue[Replica] = asyncio.Queue()
    answers: asyncio.Queue[bool] = asyncio.Queue()

    async def verify(replica: Replica) -> bool:
        asked.put_nowait(replica)
        return await answers.get()

    async with running_fleet(tmp_path, clock, verify=verify) as fleet:
        await fleet.start([small_deployment()])
        replica = await asked.get()
        assert replica.row.status == "verifying"
        assert fleet.replicas_for(MODEL) == ()
        answers.put_nowait(False)
        await until(fleet, lambda: replica.row.status is ReplicaStatus.QUARANTINED)
        assert fleet.replicas_for(MODEL) == ()
        assert fleet.status(MODEL).state == "failed"
        with pytest.raises(ModelUnavailable, match="differ from the fingerprint"):
            fleet.check_hope(MODEL)
    assert replica.row.status == "stopped"


async def test_a_check_that_breaks_fails_the_replica_alone(tmp_path: Path, clock: ManualClock) -> None:
    async def verify(replica: Replica) -> bool:
        if replica.row.deployment == "small":
            raise ZeroDivisionError("broken check")
        return True

    async with running_fleet(tmp_path, clock, verify=verify) as fleet:
        await fleet.start([small_deployment(), small_deployment("other")])
        await clock.slept(1.0)
        await until(fleet, lambda: fleet.state("other@1") == "ready")
        assert "its supervision failed" in fleet.status(MODEL).message
        [row] = await _rows(fleet)
        assert marked(row.id) == []


async def test_closing_stops_everything(tmp_path: Path, clock: ManualClock) -> None:
    async with running_fleet(tmp_path, clock, limits=Limits(grace_s=0.2)) as fleet:
        await _close(fleet, tmp_path)


async def _close(fleet: Fleet, tmp_path: Path) -> None:
    await fleet.start([small_deployment(replicas=2), small_deployment("kin", behaviour="family")])
    replicas = await _ready(fleet, 2)
    await until(fleet, lambda: fleet.replicas_for("kin@1"))
    replicas += fleet.replicas_for("kin@1")
    replicas[0].occupy(1)
    await fleet.aclose()
    await fleet.aclose()
    rows = await _rows(fleet) + await _rows(fleet, "kin")
    assert [(row.status, row.target) for row in rows] == [(ReplicaStatus.STOPPED, ReplicaTarget.STOPPED)] * 3
    assert [marked(row.id) for row in rows] == [[], [], []]
    assert list((tmp_path / "run").iterdir()) == []
    assert fleet.replicas_for(MODEL) == ()
    assert fleet.state(MODEL) == "stopped"


async def test_closing_in_the_middle_of_a_start(fleet: Fleet) -> None:
    await fleet.start([small_deployment()])
    await fleet.aclose()
    [row] = await _rows(fleet)
    assert row.status == "stopped"
    assert marked(row.id) == []


async def test_closing_between_two_attempts(fleet: Fleet, clock: ManualClock) -> None:
    await fleet.start([small_deployment(behaviour="dies")])
    await clock.slept(1.0)
    await fleet.aclose()
    assert [row.status for row in await _rows(fleet)] == ["failed"]


async def test_a_replica_that_is_not_wanted_finishes_what_it_has(fleet: Fleet) -> None:
    await fleet.start([small_deployment()])
    [replica] = await _ready(fleet)
    supervisor = fleet._slots[0].supervisor
    assert supervisor is not None
    replica.occupy(1)
    supervisor.stop()
    await until(fleet, lambda: replica.row.status is ReplicaStatus.DRAINING)
    assert fleet.replicas_for(MODEL) == ()
    assert marked(replica.id) != []
    replica.free(1)
    await until(fleet, lambda: replica.row.status is ReplicaStatus.STOPPED)
    assert marked(replica.id) == []


async def test_old_rows_and_their_logs_are_forgotten(fleet: Fleet, tmp_path: Path) -> None:
    for number in range(KEPT_ROWS + 5):
        row = ReplicaRow(f"replica_{number:04}", "small", MODEL, "small", "local", ReplicaStatus.FAILED)
        await fleet._store.add(row)
        (tmp_path / "logs").mkdir(exist_ok=True)
        (tmp_path / "logs" / f"{row.id}.log").touch()
    await fleet.start([small_deployment()])
    await _ready(fleet)
    logs = sorted(path.stem for path in (tmp_path / "logs").iterdir())
    assert len(logs) == KEPT_ROWS + 1
    assert logs[0] == "replica_0005"
    assert len(await _rows(fleet)) == KEPT_ROWS + 1


async def test_a_listener_that_breaks_harms_nobody(fleet: Fleet) -> None:
    def listener(row: ReplicaRow, message: str) -> None:
        raise BrokenPipeError

    fleet.listen(listener)
    await fleet.start([small_deployment()])
    await _ready(fleet)


async def test_who_listens_no_more_hears_nothing(fleet: Fleet) -> None:
    heard: list[str] = []
    fleet.listen(lambda row, message: heard.append(message))()
    await fleet.start([small_deployment()])
    await _ready(fleet)
    assert heard == []


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DeploymentConfig(engine="small", launcher="cloud"), "there is no launcher 'cloud'; choose one of inproc"),
        (DeploymentConfig(engine="small", launcher="inprocess"), "runs in a process; choose launcher `local`"),
    ],
)
async def test_impossible_deployments_are_refused(
    config: DeploymentConfig, message: str, fleet: Fleet, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        await fleet.start([(config, small_deployment()[1])])
    assert not (tmp_path / "run").exists()


async def test_names_of_deployments_are_unique(fleet: Fleet) -> None:
    with pytest.raises(ConfigError, match="two deployments are called small"):
        await fleet.start([small_deployment(), small_deployment()])


async def test_replicas_are_added_and_retired(fleet: Fleet) -> None:
    """Those over the number wanted finish what they are answering."""
    await fleet.start([small_deployment()])
    [first] = await _ready(fleet)
    await fleet.scale("small", 3)
    await _ready(fleet, 3)
    assert fleet.count("small").ready == 3
    busy, _ = [one for one in fleet.replicas_for(MODEL) if one is not first]
    first.occupy(2)
    busy.occupy(1)
    await fleet.scale("small", 1)
    await until(fleet, lambda: fleet.replicas_for(MODEL) == (first,) and busy.row.status is ReplicaStatus.DRAINING)
    assert marked(busy.id)
    busy.free(1)
    await until(fleet, lambda: busy.row.status is ReplicaStatus.STOPPED)
    assert not marked(busy.id)
    await fleet.scale("small", 0)
    with pytest.raises(ModelUnavailable, match="no replica of it is wanted"):
        fleet.check_hope(MODEL)


async def test_deployments_come_and_go(fleet: Fleet) -> None:
    await fleet.start([])
    await fleet.add(*small_deployment())
    [replica] = await _ready(fleet)
    with pytest.raises(ConfigError, match="'small' already"):
        await fleet.add(*small_deployment())
    waiting = asyncio.create_task(fleet.wait_for_change(MODEL))
    await asyncio.sleep(0)
    await fleet.remove("small")
    await waiting
    assert (fleet.served(), fleet.replicas_for(MODEL)) == (frozenset(), ())
    await fleet.add(*small_deployment())  # while the first still ends
    await until(fleet, lambda: replica.row.status.final and len(fleet.replicas_for(MODEL)) == 1)
    assert fleet.replicas_for(MODEL) != (replica,)

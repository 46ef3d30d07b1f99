"""What this machine has, and who gets it."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.core.config import DeploymentConfig, EngineConfig, LayoutConfig, NodeConfig
from terascope.core.errors import ConfigError
from terascope.core.models import ModelFile, ModelVersion
from terascope.core.states import ReplicaStatus
from terascope.fleet.deployed import Programs
from terascope.fleet.hardware import hardware
from terascope.fleet.node import VISIBLE, Hardware, Need, Node
from terascope.testing.clock import ManualClock
from terascope.testing.fleet import running_fleet, until
from terascope.testing.small_engine import small_deployment

GB = 1_000_000_000


def _woken() -> None:
    return


@st.composite
def _needs(draw: st.DrawFn) -> Need:
    shares = draw(st.booleans())
    return Need(1 if shares else draw(st.integers(0, 3)), shares, draw(st.integers(0, 50)))


@given(st.lists(st.tuples(_needs(), st.booleans()), max_size=30), st.integers(1, 4), st.integers(0, 60))
def test_nobody_gets_what_another_has(steps: list[tuple[Need, bool]], gpus: int, gpu_bytes: int) -> None:
    """GPUs of its own are nobody else's; memory is never given twice; in the end all is free again."""
    node = Node(Hardware(tuple(map(str, range(gpus))), gpu_bytes, 100))
    given_: dict[str, tuple[Need, tuple[str, ...]]] = {}
    for number, (need, leaves) in enumerate(steps):
        taken = node.take(f"r{number}", need, _woken)
        if isinstance(taken, str):
            node.free(f"r{number}")
        else:
            assert len(set(taken)) == need.gpus
            given_[f"r{number}"] = (need, taken)
        if leaves and given_:
            node.free(next(iter(given_)))
            given_.pop(next(iter(given_)))
        _check(list(given_.values()), gpu_bytes)
    for name in given_:
        node.free(name)
    assert node.take("all", Need(gpus), _woken) == tuple(map(str, range(gpus)))


def _check(given_: list[tuple[Need, tuple[str, ...]]], gpu_bytes: int) -> None:
    assert sum(need.weights for need, gpus in given_ if not gpus) <= 100
    for gpu in {gpu for _, gpus in given_ for gpu in gpus}:
        on_it = [need for need, gpus in given_ if gpu in gpus]
        assert len(on_it) == 1 or all(need.shares for need in on_it)
        assert len(on_it) == 1 or not gpu_bytes or sum(need.weights for need in on_it) <= gpu_bytes


def test_who_waits_longest_is_next() -> None:
    node, woken = Node(Hardware(("0", "1"))), list[str]()
    assert node.take("a", Need(1), _woken) == ("0",)
    assert (
        node.take("b", Need(2), lambda: woken.append("b"))
        == "waits for 2 of 2 GPUs: 1 have room, others run on the rest"
    )
    assert node.take("c", Need(1), lambda: woken.append("c")) == "waits behind another replica for room on this machine"
    node.free("a")
    assert woken == ["b", "c"]
    assert node.take("b", Need(2), _woken) == ("0", "1")


def test_memory_that_is_taken_is_counted() -> None:
    node = Node(Hardware(memory_bytes=10 * GB))
    assert node.take("a", Need(weights=6 * GB), _woken) == ()
    lacking = node.take("b", Need(weights=5 * GB), _woken)
    assert lacking == (
        "waits for memory: its weights take 5.0 GB, those of replicas that run take 6.0 GB, "
        "and this machine has 10.0 GB"
    )


def _version(weights: int) -> ModelVersion:
    files = (ModelFile("model.safetensors", weights, "0" * 64), ModelFile("config.json", 700, "0" * 64))
    return replace(small_deployment()[1], files=files)


@pytest.mark.parametrize(
    ("config", "need"),
    [
        (DeploymentConfig(engine="echo"), Need()),
        (DeploymentConfig(engine="torch", device="cpu"), Need(weights=2 * GB)),
        (DeploymentConfig(engine="torch"), Need(1, shares=True, weights=2 * GB)),
        (DeploymentConfig(engine="torch", device="cuda:1"), Need()),
        (DeploymentConfig(engine="vllm", layout=LayoutConfig(tensor=4)), Need(4, weights=2 * GB)),
        (DeploymentConfig(engine="vllm", site="cluster"), Need()),
        (DeploymentConfig(engine="torch", launcher="other"), Need()),
    ],
)
def test_what_a_replica_takes(config: DeploymentConfig, need: Need) -> None:
    programs = Programs(node=Node(Hardware(("0", "1", "2", "3"))))
    assert programs.need(config, _version(2 * GB)) == need


def test_whose_engine_chooses_gpus_chose_for_itself() -> None:
    engines = {"vllm": EngineConfig(environment={VISIBLE: "3"})}
    assert (
        Programs(engines, node=Node(Hardware(("0", "1")))).need(DeploymentConfig(engine="vllm"), _version(1)) == Need()
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DeploymentConfig(engine="vllm", layout=LayoutConfig(tensor=4)), "takes 4 GPUs .* this machine has 2"),
        (
            DeploymentConfig(engine="vllm", layout=LayoutConfig(tensor=2)),
            "300.0 GB, and 2 GPUs of 80.0 GB have 160.0 GB",
        ),
        (
            DeploymentConfig(engine="torch", device="cpu"),
            "weights take 300.0 GB, and this machine has 64.0 GB of memory",
        ),
    ],
)
def test_what_never_fits_is_refused_with_the_arithmetic(config: DeploymentConfig, message: str) -> None:
    programs = Programs(node=Node(Hardware(("0", "1"), 80 * GB, 64 * GB)))
    with pytest.raises(ConfigError, match=message):
        programs.check(replace(config, name="big"), _version(300 * GB))


def test_what_is_not_known_is_not_checked() -> None:
    Programs().check(DeploymentConfig(engine="vllm", layout=LayoutConfig(tensor=64)), _version(10**15))


def test_what_is_said_and_what_is_found(tmp_path: Path) -> None:
    for gpu in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / gpu).mkdir()
    found = hardware(NodeConfig(), tmp_path)
    assert found.memory_bytes > GB
    assert (len(found.gpus), found.gpu_bytes) == (2, 0)
    said = hardware(NodeConfig(gpus=1, gpu_memory_gb=80, memory_gb=2), tmp_path)
    assert said == Hardware(found.gpus[:1], 80 * GB, 2 * GB)
    assert hardware(NodeConfig(), tmp_path / "no driver").gpus == ()


async def test_two_replicas_never_share_a_gpu(tmp_path: Path) -> None:
    """Three are wanted on two GPUs: each gets its own, the third waits until one ends."""
    clock, programs = ManualClock(real_below_s=0.9), Programs(node=Node(Hardware(("4", "5"))))
    async with running_fleet(tmp_path, clock, programs=programs) as fleet:
        await fleet.start([small_deployment(engine="vllm", replicas=3)])
        await until(fleet, lambda: len(fleet.replicas_for("small@1")) == 2)
        first, second = fleet.replicas_for("small@1")
        assert {_visible(one.row.handle["program"]) for one in (first, second)} == {"4", "5"}
        waiting = next(slot for slot in fleet._slots if slot.state == "starting")
        await until(fleet, lambda: waiting.message.startswith("waits for 1 of 2 GPUs: 0 have room"))
        assert waiting.supervisor
        third = waiting.supervisor.replica
        await fleet.scale("small", 2)
        await until(fleet, lambda: third.row.status is ReplicaStatus.STOPPED)  # the one that waits goes first
        await fleet.scale("small", 1)
        await until(fleet, lambda: len(fleet.replicas_for("small@1")) == 1)
        gone = next(one for one in (first, second) if one not in fleet.replicas_for("small@1"))
        await until(fleet, lambda: gone.row.status is ReplicaStatus.STOPPED)
        await fleet.scale("small", 2)
        await until(fleet, lambda: len(fleet.replicas_for("small@1")) == 2)
        assert {_visible(one.row.handle["program"]) for one in fleet.replicas_for("small@1")} == {"4", "5"}


def _visible(pid: str | int) -> str:
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    return next((one.decode().partition("=")[2] for one in variables if one.startswith(VISIBLE.encode())), "")

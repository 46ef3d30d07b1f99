"""Checkpoints: what comes back is what went in, and nothing that is half-written or foreign is read."""

import errno
import logging
import resource
from pathlib import Path

import pytest
import torch
from torch.nn.parameter import Parameter

from terascope.engines.torch.tuning.safe import PART, write_bytes
from terascope.engines.torch.tuning.saves import Saves, Standing


def trained(
    seed: int, steps: int = 2, shape: tuple[int, ...] = (3, 2)
) -> tuple[dict[str, Parameter], torch.optim.AdamW]:
    """Parameters after some steps of an optimizer."""
    generator = torch.Generator().manual_seed(seed)
    parameters = {name: Parameter(torch.randn(*shape, generator=generator)) for name in "ab"}
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.1)
    for _ in range(steps):
        step(parameters, optimizer)
    return parameters, optimizer


def step(parameters: dict[str, Parameter], optimizer: torch.optim.AdamW) -> None:
    for one in parameters.values():
        one.grad = one.detach() ** 2
    optimizer.step()


def test_it_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    parameters, optimizer = trained(1)
    Saves(tmp_path / "c", "job").save(Standing("job", 2, 34, 5), parameters, optimizer)
    others, theirs = trained(2, 0)
    assert Saves(tmp_path / "c", "job").restore(others, theirs) == Standing("job", 2, 34, 5)
    for _ in range(3):
        step(parameters, optimizer)
        step(others, theirs)
    assert all(torch.equal(parameters[name], others[name]) for name in parameters)


def test_the_newest_two_stay(tmp_path: Path) -> None:
    saves = Saves(tmp_path, "job")
    for number in (9, 10, 100):
        saves.save(Standing("job", number), *trained(number))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-000000010.safetensors",
        "step-000000100.safetensors",
    ]
    parameters, optimizer = trained(3, 0)
    assert saves.restore(parameters, optimizer).step == 100


@pytest.mark.parametrize("damage", ["cut", "emptied", "garbage", "foreign", "other shapes"])
def test_what_is_not_sound_is_passed_over(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    Saves(tmp_path, "job").save(Standing("job", 1, 7), *trained(1))
    newer = tmp_path / "step-000000002.safetensors"
    if damage == "foreign":
        Saves(tmp_path, "another").save(Standing("another", 2), *trained(2))
    elif damage == "other shapes":
        Saves(tmp_path, "job").save(Standing("job", 2), *trained(2, shape=(4, 2)))
    else:
        whole = (tmp_path / "step-000000001.safetensors").read_bytes()
        newer.write_bytes({"cut": whole[:-5], "emptied": b"", "garbage": b"x" * len(whole)}[damage])
    with caplog.at_level(logging.WARNING):
        assert Saves(tmp_path, "job").restore(*trained(3, 0)) == Standing("job", 1, 7)
    assert "a checkpoint is not used" in caplog.text


def test_what_is_half_written_is_removed_and_never_read(tmp_path: Path) -> None:
    (tmp_path / f"step-000000005.safetensors{PART}").write_bytes(b"half")
    assert Saves(tmp_path, "job").restore(*trained(1, 0)) == Standing("job")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_last_one(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: the kernel refuses the same write in the same place."""
    saves = Saves(tmp_path, "job")
    saves.save(Standing("job", 1), *trained(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as found:
            saves.save(Standing("job", 2), *trained(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert found.value.errno == errno.EFBIG
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001.safetensors"]
    assert saves.restore(*trained(3, 0)).step == 1


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "one"
    write_bytes(path, b"first")
    inode = path.stat().st_ino
    write_bytes(path, b"second")
    assert path.read_bytes() == b"second"
    assert path.stat().st_ino != inode

"""A small disk of its own, to be filled: what stands on it has no room left, and the machine has."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MOUNT = 'mount -t tmpfs -o "size=$1" none /mnt && echo up && read -r _'

_APART = ["unshare", "--user", "--map-root-user", "--mount"]


def possible() -> bool:
    """Whether this machine lets us have small disks."""
    return subprocess.run([*_APART, "true"], capture_output=True, check=False).returncode == 0


@contextmanager
def small_disk(size: int) -> Iterator[Path]:
    """The root of a file system of `size` bytes, empty, gone at the end.

    It is mounted where only one process sees it, in namespaces of its own, so that this needs no rights; its path leads
    there through `/proc`. Raises `RuntimeError` where the machine lets nobody make such namespaces.
    """
    command = [*_APART, "sh", "-c", _MOUNT, "sh", str(size)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        if holder.stdout.readline() != "up\n":
            raise RuntimeError("this machine lets nobody mount a disk in a namespace of their own")
        try:
            yield Path(f"/proc/{holder.pid}/root/mnt")
        finally:
            holder.stdin.close()
            holder.wait()


def fill(disk: Path) -> None:
    """Leave no room on a small disk, by one file `filler`."""
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            return

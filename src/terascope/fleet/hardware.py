"""Finds out what this machine has; what cannot be found out is left open."""

import os
from pathlib import Path

from terascope.core import environment
from terascope.core.config import NodeConfig
from terascope.fleet.node import Hardware

_GPUS = Path("/proc/driver/nvidia/gpus")
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def hardware(config: NodeConfig, gpus: Path = _GPUS) -> Hardware:
    """Return what `config` says, and where it says nothing what the kernel does. Reads a few small files."""
    return Hardware(
        gpus=_gpus(config.gpus, gpus),
        gpu_bytes=int(config.gpu_memory_gb * 1e9),
        memory_bytes=int(config.memory_gb * 1e9) or _memory(),
    )


def _gpus(said: int, directory: Path) -> tuple[str, ...]:
    """The GPUs' names for CUDA: those that we may see, or all of them."""
    visible = environment.visible_gpus()
    names = visible if visible is not None else [str(number) for number in range(said or _count(directory))]
    return tuple(names[:said] if said else names)


def _count(directory: Path) -> int:
    return len(list(directory.iterdir())) if directory.is_dir() else 0


def _memory() -> int:
    """Bytes of memory that processes here may use."""
    limits = [int(text) for path in _LIMITS if path.is_file() and (text := path.read_text().strip()).isdecimal()]
    return min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *limits])

"""How much memory there is, and whether an error means that there was too little."""

import ctypes
import mmap
from pathlib import Path

import torch
from torch import Tensor

_CPU_SHARE = 0.25  # of what is available: other replicas, the page cache and the user want some too
_GPU_SHARE = 0.8
_UNKNOWN = 1 << 30
_MADV_PAGEOUT = 21  # linux/mman.h, since 5.4; where it is not known, nothing happens
_TOO_LITTLE = ("not enough memory", "can't allocate memory", "out of memory", "DefaultCPUAllocator")


def for_cache(device: torch.device) -> int:
    """Return how many bytes the KV cache may take on `device`."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * _GPU_SHARE)
    return int(available() * _CPU_SHARE)


def available() -> int:
    """Return how many bytes of main memory can still be used, by this machine and by this container."""
    lines = _read("/proc/meminfo").splitlines()
    machine = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), _UNKNOWN)
    limit, used = _read("/sys/fs/cgroup/memory.max").strip(), _read("/sys/fs/cgroup/memory.current").strip()
    if limit.isdecimal() and used.isdecimal():
        return max(0, min(machine, int(limit) - int(used)))
    return machine


def page_out(tensor: Tensor) -> None:
    """Let the system take back the memory of a CPU `tensor` that is mapped from a file; it is read again when used."""
    storage = tensor.untyped_storage()
    first = -(-storage.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (storage.data_ptr() + storage.nbytes()) // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _MADV_PAGEOUT)


def was_too_little(error: BaseException) -> bool:
    """True when `error` says that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _TOO_LITTLE)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""

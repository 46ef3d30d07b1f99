"""The machine: is there what a gateway and its engines need?"""

import json
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from terascope.cli.checks.finding import Finding, error, ok, warning
from terascope.cli.show import size

_GB = 1_000_000_000
_MEMORY = 2 * _GB  # what the two default models need beside a small system
_DISK_LOW = 5 * _GB
_DISK_FULL = _GB // 2
_FILES = 4096
_IMPORT_S = 120
_LOOK_AT_TORCH = "import json, torch; print(json.dumps([torch.__version__, torch.cuda.device_count()]))"


def check_machine(data_dir: Path, cache_dir: Path, *, needs_torch: bool) -> Iterator[Finding]:
    """Look at this machine. `needs_torch`: a deployment of the configuration runs the torch engine."""
    yield ok("python", f"{platform.python_version()} ({sys.executable})")
    yield _cores()
    yield _memory()
    yield _disk("data directory", data_dir, "--data-dir or TERASCOPE_DATA_DIR")
    yield _disk("model cache", cache_dir, "TERASCOPE_CACHE_DIR")
    yield _files()
    yield _sockets()
    gpus = _gpus()
    yield _torch(needs_torch, gpus)
    yield ok("gpu", "; ".join(gpus) or "none that nvidia-smi shows; models run on the CPU")


def _cores() -> Finding:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if count < 2:
        return warning("cores", "1 for this process", "a gateway and an engine share it; give the process 2 or more")
    return ok("cores", f"{count} for this process")


def _memory() -> Finding:
    free = _free_memory()
    if free is None:
        return warning("memory", "this system does not say", f"see that {size(_MEMORY)} are free")
    if free < _MEMORY:
        advice = f"the two default models need about {size(_MEMORY)}; free some, or serve a smaller model"
        return warning("memory", f"{size(free)} free", advice)
    return ok("memory", f"{size(free)} free")


def _free_memory() -> int | None:
    """Bytes that new processes may use: of the machine, and of the control group this one is in."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    available = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
    return min((amount for amount in (available, _free_of_group()) if amount is not None), default=None)


def _free_of_group() -> int | None:
    group = Path("/sys/fs/cgroup")
    try:
        return int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
    except (OSError, ValueError):  # no control group, or `max`
        return None


def _disk(about: str, directory: Path, option: str) -> Finding:
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        return error(about, f"{existing} cannot be written", f"make it writable, or name another with {option}")
    free = shutil.disk_usage(existing).free
    if free < _DISK_FULL:
        return error(about, f"{directory}, {size(free)} free", f"free some space, or name another with {option}")
    if free < _DISK_LOW:
        return warning(about, f"{directory}, {size(free)} free", "large models will not fit; free some space")
    return ok(about, f"{directory}, {size(free)} free")


def _files() -> Finding:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < _FILES:
        advice = "every connection is a file; raise the hard limit (LimitNOFILE= of systemd, or limits.conf)"
        return warning("open files", f"at most {hard:,}", advice)
    return ok("open files", "no limit" if hard == resource.RLIM_INFINITY else f"at most {hard:,}")


def _sockets() -> Finding:
    """Engines are reached by Unix sockets: in the data directory, or here when its path is too long for one."""
    try:
        with tempfile.TemporaryDirectory(prefix="terascope-") as directory, socket.socket(socket.AF_UNIX) as trial:
            trial.bind(f"{directory}/trial.sock")
    except OSError as problem:
        return error("sockets", f"{tempfile.gettempdir()}: {problem.strerror or problem}", "set TMPDIR to a local disk")
    return ok("sockets", f"can be made in {tempfile.gettempdir()}")


def _torch(needed: bool, gpus: list[str]) -> Finding:
    install = "pip install 'terascope[torch]'"
    if find_spec("torch") is None or find_spec("transformers") is None:
        if needed:
            return error("torch", "not installed, but a deployment runs it", install)
        return warning("torch", "not installed", f"only needed for models run on this machine: {install}")
    try:
        version, devices = _import_torch()
    except (subprocess.SubprocessError, ValueError, OSError) as problem:
        return error("torch", f"installed, but cannot be imported: {_reason(problem)}", f"install it anew: {install}")
    if gpus and not devices:
        return warning("torch", f"{version} does not see the GPU", "install the build of torch for your CUDA version")
    return ok("torch", version)


def _import_torch() -> tuple[str, int]:
    """Import torch in a process of its own, and return its version and how many GPUs it sees."""
    done = subprocess.run(
        [sys.executable, "-c", _LOOK_AT_TORCH], capture_output=True, text=True, timeout=_IMPORT_S, check=True
    )
    version, devices = json.loads(done.stdout.splitlines()[-1])
    return str(version), int(devices)


def _reason(problem: Exception) -> str:
    """The last line of what was said."""
    said = getattr(problem, "stderr", None) or str(problem)
    return (said.decode(errors="replace") if isinstance(said, bytes) else str(said)).strip().splitlines()[-1][:200]


def _gpus() -> list[str]:
    """Name and memory of every GPU that nvidia-smi shows."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=30, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]

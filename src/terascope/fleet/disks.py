"""Which of the directories that a program writes into have no room left."""

import os
from pathlib import Path

from terascope.core import environment
from terascope.fleet.launchers.contract import Program

_LEAST = 1 << 14  # bytes; less is no room
_CACHES = ("XDG_CACHE_HOME", "HF_HOME", "VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - nothing is written there; engines' workers talk through it


def full_places(program: Program) -> list[Path]:
    """Return the directories of `program`'s log, caches and temporary files that have no room left.

    Of a program on another machine it is the log's alone. Those that cannot be looked at are left out. It may block.
    """
    log = [program.log.resolve().parent] if program.log else []
    places = log if program.listen else [*log, *_written_by(program)]
    return [place for place in dict.fromkeys(places) if _full(place)]


def _written_by(program: Program) -> list[Path]:
    variables = {**environment.for_child(), **program.environment}
    named = [variables[name] for name in (*_CACHES, "TMPDIR") if variables.get(name)]
    home = variables.get("HOME", "/")
    return [*map(Path, named), Path(home, ".cache"), Path("/tmp"), _SHARED_MEMORY]  # noqa: S108 - only looked at


def _full(place: Path) -> bool:
    """Whether its disk has no blocks left, or no room for another file. Disks that do not count either are not full."""
    try:
        disk = os.statvfs(place)
    except OSError:
        return False
    no_blocks = disk.f_blocks > 0 and disk.f_bavail * disk.f_frsize < _LEAST
    return no_blocks or (disk.f_files > 0 and disk.f_favail == 0)

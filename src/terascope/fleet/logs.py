"""The log of a program: where it is, what its last words were, and what is added to it."""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from terascope.core.clock import Clock

_LOOK_BACK = 16 * 1024
_LONGEST = 300
_MOST = 1 << 20  # bytes that are looked through for the last lines, and read at a time
_LOOK_S = 0.5  # between two looks for more
_NOT_TEXT = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")
_TRACEBACK = "Traceback (most recent call last):"
_POINTS_BACK = "root cause"  # vLLM's server says no more when one of its processes has failed
_LOGGED_ERROR = re.compile(r"\b[A-Z]\w*(?:Error|Exception): .+")


def log_file(data_dir: Path, replica_id: str) -> Path:
    """Where the output of a replica's program goes."""
    return data_dir / "logs" / f"{replica_id}.log"


def log_of_rank(first: Path, rank: int) -> Path:
    """The log of another node of a replica, which lies beside that of its first node."""
    return first.with_name(f"{first.stem}-{rank}{first.suffix}") if rank else first


def last_words(path: Path, secrets: Sequence[str] = ()) -> str:
    """Return the line of the log that says why its program ended, empty when there is none.

    That is the error of the last Python traceback, else the last line; where it points to an earlier one, the first
    error that was logged. `secrets` are blotted out.
    """
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LOOK_BACK))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    lines = [line.rstrip() for line in _NOT_TEXT.sub("", text.replace("\r", "\n")).splitlines() if line.strip()]
    return _telling(lines)[:_LONGEST]


def tail(path: Path, lines: int) -> tuple[bytes, int]:
    """Return the last `lines` of a file, as far as they are in its last MiB, and where it ends; empty if it is none."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - _MOST))
            data = file.read(size - file.tell())
    except OSError:
        return b"", 0
    return b"".join(data.splitlines(keepends=True)[-lines:] if lines else []), size


async def read_log_file(path: Path, lines: int, *, follow: bool, clock: Clock) -> AsyncIterator[bytes]:
    """Yield the last `lines` of a log, and with `follow` what is added to it, for ever; it need not be there yet.

    What is cut off at its end begins anew from there.
    """
    data, at = await asyncio.to_thread(tail, path, lines)
    while True:
        if data:
            yield data
        elif not follow:
            return
        else:
            await clock.sleep(_LOOK_S)
        data, at = await asyncio.to_thread(_added, path, at)


def _added(path: Path, at: int) -> tuple[bytes, int]:
    try:
        with path.open("rb") as file:
            file.seek(min(at, os.fstat(file.fileno()).st_size))
            data = file.read(_MOST)
            return data, file.tell()
    except OSError:
        return b"", at


def _telling(lines: list[str]) -> str:
    last = _last_error(lines)
    if _POINTS_BACK not in last:
        return last
    earlier = (found[0] for line in lines if _POINTS_BACK not in line and (found := _LOGGED_ERROR.search(line)))
    return next(earlier, last)


def _last_error(lines: list[str]) -> str:
    if not lines:
        return ""
    if _TRACEBACK in lines:
        after = len(lines) - lines[::-1].index(_TRACEBACK)
        return next((line for line in lines[after:] if not line.startswith(" ")), lines[-1]).strip()
    return lines[-1].strip()

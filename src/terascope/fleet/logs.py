"""The log of a program: where it is, and what its last words were."""

import re
from collections.abc import Sequence
from pathlib import Path

_LOOK_BACK = 16 * 1024
_LONGEST = 300
_NOT_TEXT = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")
_TRACEBACK = "Traceback (most recent call last):"


def log_file(data_dir: Path, replica_id: str) -> Path:
    """Where the output of a replica's program goes."""
    return data_dir / "logs" / f"{replica_id}.log"


def last_words(path: Path, secrets: Sequence[str] = ()) -> str:
    """Return the line of the log that says why its program ended, empty when there is none.

    That is the error of the last Python traceback, else the last line. `secrets` are blotted out.
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


def _telling(lines: list[str]) -> str:
    if not lines:
        return ""
    if _TRACEBACK in lines:
        after = len(lines) - lines[::-1].index(_TRACEBACK)
        return next((line for line in lines[after:] if not line.startswith(" ")), lines[-1]).strip()
    return lines[-1].strip()

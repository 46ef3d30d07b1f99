"""What a check found."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How good or bad it is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it is, and, unless it is well, what to do."""

    about: str
    level: Level
    says: str
    advice: str = ""


def ok(about: str, says: str) -> Finding:
    """It is as it should be."""
    return Finding(about, Level.OK, says)


def warning(about: str, says: str, advice: str) -> Finding:
    """It works, but not as well as it could; or it could not be looked at."""
    return Finding(about, Level.WARNING, says, advice)


def error(about: str, says: str, advice: str) -> Finding:
    """Something will not work until this is mended."""
    return Finding(about, Level.ERROR, says, advice)

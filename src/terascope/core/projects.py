"""What a project is, to every room: its name, the roles in it, the classes of service."""

import re
from enum import StrEnum

from terascope.core.errors import BadRequest

LOCAL_PROJECT = "local"
"""The project that every gateway has: who uses one alone need not know of projects."""
PROJECT_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
SERVICE = "service"
"""The users `service:PROJECT/NAME` are service accounts: no person, and of one project alone."""


class Role(StrEnum):
    """What a member of a project is in it."""

    PI = "pi"  # uses models, sees everything of the project, and says who its members are
    MEMBER = "member"  # uses models, and sees the project and their own usage
    AUDITOR = "auditor"  # sees everything of the project and uses nothing


class Qos(StrEnum):
    """Quality of service: how urgent a request is."""

    URGENT = "urgent"
    INTERACTIVE = "interactive"
    BATCH = "batch"


PRIORITIES = {Qos.URGENT: 0, Qos.INTERACTIVE: 1, Qos.BATCH: 2}
"""What an engine is told of a request's QOS; smaller goes first."""

MOST_SHARES = 1_000_000
MOST_SLOTS = 100_000  # of a model, in one reservation


def checked_shares(shares: int) -> int:
    """Return `shares` if a project may have so many. Raises `BadRequest`."""
    if not 1 <= shares <= MOST_SHARES:
        raise BadRequest(f"`shares` must be from 1 to {MOST_SHARES:,}", param="shares")
    return shares


def checked_project(name: str) -> str:
    """Return `name` if a project may be called so. Raises `BadRequest`."""
    if not re.fullmatch(PROJECT_PATTERN, name):
        raise BadRequest(
            "a project's name is 1 to 64 lower-case letters, digits, dots, dashes and underscores, and begins with a "
            "letter or digit",
            param="project",
        )
    return name


def checked_text(text: str, what: str, *, most: int = 200, empty: bool = False) -> str:
    """Return `text` without the space around it. Raises `BadRequest` unless it is printable and not too long."""
    text = text.strip()
    if len(text) > most or not text.isprintable() or not (text or empty):
        raise BadRequest(f"`{what}` must be printable and of at most {most} characters", param=what)
    return text


def service_user(project: str, name: str) -> str:
    """The user that a service account is."""
    return f"{SERVICE}:{project}/{name}"


def is_service(user: str) -> bool:
    """Whether a user is a service account."""
    return user.startswith(f"{SERVICE}:")


def checked_account(account: str) -> tuple[str, str]:
    """Return project and name of the service account `PROJECT/NAME`. Raises `BadRequest`."""
    project, slash, name = account.partition("/")
    if not slash or not re.fullmatch(PROJECT_PATTERN, project) or not re.fullmatch(PROJECT_PATTERN, name):
        raise BadRequest(
            "a service account is PROJECT/NAME; its name has lower-case letters, digits, dots, dashes and underscores, "
            "and begins with a letter or digit",
            param="name",
        )
    return project, name

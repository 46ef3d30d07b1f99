"""What admission asks of projects: their members, policies and allocations without a limit, in one look.

It is looked up by the writer, with what waits to be written: there statements are prepared and the connection is at
hand, and what many requests ask for at once is one look.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection

from terascope.core.projects import Role
from terascope.store.database import Database
from terascope.store.plain import PlainIn
from terascope.store.policies import PolicyRow

_PROJECTS = PlainIn("SELECT name, closed, shares FROM projects WHERE name IN ({})")
_MEMBERS = PlainIn("SELECT project, user_id, role FROM members WHERE project IN ({})")
_POLICIES = PlainIn(  # as text: of two databases one would take the JSON apart
    "SELECT project, model, CAST(modes AS TEXT), CAST(qos AS TEXT) FROM policies WHERE project IN ({}) ORDER BY model"
)
_UNLIMITED = PlainIn(
    "SELECT project, id, starts, ends FROM allocations WHERE unlimited AND project IN ({}) ORDER BY created, id"
)


@dataclass(frozen=True, slots=True)
class Rights:
    """Of one project. `unlimited` has the ids of allocations without a limit, oldest first, each with start and end."""

    closed: bool
    shares: int
    roles: Mapping[str, Role]
    policies: tuple[PolicyRow, ...]
    unlimited: tuple[tuple[str, float, float | None], ...]


async def rights_of(database: Database, project: str) -> Rights | None:
    """What is stored of `project` now; None when there is none of that name."""
    found: Rights | None = await database.writer.submit(_look, project)
    return found


def _look(connection: Connection, asked: Sequence[str]) -> list[Rights | None]:
    names = sorted(set(asked))
    found = {name: (closed is not None, shares) for name, closed, shares in _PROJECTS.rows(connection, names)}
    members, policies, unlimited = (
        _by_project(one.rows(connection, names)) for one in (_MEMBERS, _POLICIES, _UNLIMITED)
    )
    rights = {
        name: Rights(
            *about,
            {user: Role(role) for user, role in members.get(name, ())},
            tuple(PolicyRow(name, model, _words(modes), _words(qos)) for model, modes, qos in policies.get(name, ())),
            tuple((one, starts, ends) for one, starts, ends in unlimited.get(name, ())),
        )
        for name, about in found.items()
    }
    return [rights.get(name) for name in asked]


def _by_project(rows: Sequence[tuple[Any, ...]]) -> dict[str, list[tuple[Any, ...]]]:
    found: dict[str, list[tuple[Any, ...]]] = {}
    for project, *rest in rows:
        found.setdefault(project, []).append(tuple(rest))
    return found


def _words(json: str) -> tuple[str, ...]:
    return tuple(orjson.loads(json))

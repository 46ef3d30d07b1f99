"""Repository of `deployments`: what operators want to be served, beside what the configuration declares."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from terascope.core.errors import Conflict, NotFound
from terascope.core.states import DeploymentTarget
from terascope.store.audit import audited
from terascope.store.changes import one_by_one
from terascope.store.database import Database
from terascope.store.tables import deployments

_TOLD = ("model", "replicas", "min", "max")  # by the audit log


@dataclass(frozen=True, slots=True)
class DeploymentRow:
    """A deployment by its name. `settings` are the fields of a `DeploymentConfig`; times are seconds of the epoch."""

    name: str
    settings: Mapping[str, Any]
    target: DeploymentTarget
    created: float
    changed: float


class DeploymentStore:
    """Reads and writes `deployments`. Every change is durable on return, with its entry in the audit log."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> list[DeploymentRow]:
        """Return all rows by their names."""
        async with self._database.read() as connection:
            rows = (await connection.execute(select(deployments).order_by(deployments.c.name))).mappings().all()
        return [DeploymentRow(**{**row, "target": DeploymentTarget(row["target"])}) for row in rows]

    async def add(self, row: DeploymentRow) -> None:
        """Store a new row. Raises `Conflict` when there is one of that name."""
        await audited(self._database, _add, row, "deployment.create", row.name, **_told(row))

    async def update(self, row: DeploymentRow) -> None:
        """Replace the row of that name. Raises `NotFound`."""
        await audited(self._database, _update, row, "deployment.change", row.name, **_told(row))

    async def remove(self, name: str) -> None:
        """Delete a row. Raises `NotFound`."""
        await audited(self._database, _remove, name, "deployment.remove", name)


def not_found(name: str) -> NotFound:
    """The error for a name that no deployment has."""
    return NotFound(f"there is no deployment {name[:60]!r}; `terascope deploy list` shows them")


def _told(row: DeploymentRow) -> dict[str, Any]:
    told = {name: value for name in _TOLD if (value := row.settings.get(name)) is not None}
    return told | {"wanted": row.target.value}


def _values(row: DeploymentRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in DeploymentRow.__slots__} | {"settings": dict(row.settings)}


@one_by_one
def _add(connection: Connection, row: DeploymentRow) -> None:
    if connection.execute(select(deployments.c.name).where(deployments.c.name == row.name)).first():
        raise Conflict(f"there is a deployment {row.name!r} already", param="name")
    connection.execute(insert(deployments).values(_values(row)))


@one_by_one
def _update(connection: Connection, row: DeploymentRow) -> None:
    if not connection.execute(update(deployments).where(deployments.c.name == row.name).values(_values(row))).rowcount:
        raise not_found(row.name)


@one_by_one
def _remove(connection: Connection, name: str) -> None:
    if not connection.execute(delete(deployments).where(deployments.c.name == name)).rowcount:
        raise not_found(name)

"""Repository of `replicas`: what was started, where it stands, what is wanted of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, delete, insert, select, update

from terascope.core.states import ReplicaStatus, ReplicaTarget
from terascope.store.database import Database
from terascope.store.tables import replicas

_FINAL = [status.value for status in ReplicaStatus if status.final]


@dataclass(frozen=True, slots=True)
class ReplicaRow:
    """One replica, from wanted to ended; a replica that is started anew is a new row.

    `model` is `name@version`; `url` says where it is reached, never with what secret; `handle` is what its
    launcher needs to find it again, empty while nothing has been started; `restarts` counts the rows that
    stood in its place before; `created` and `changed` are seconds since the epoch; `agent_hash` is of the token that
    its agent shows, empty where it is reached without one.
    """

    id: str
    deployment: str
    model: str
    engine: str
    launcher: str
    status: ReplicaStatus = ReplicaStatus.PENDING
    target: ReplicaTarget = ReplicaTarget.READY
    url: str = ""
    handle: Mapping[str, str | int] = field(default_factory=dict)
    message: str = ""
    restarts: int = 0
    created: float = 0.0
    changed: float = 0.0
    agent_hash: str = ""


class ReplicaStore:
    """Reads and writes `replicas`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, row: ReplicaRow) -> None:
        """Store a new `row`, durably on return."""
        await self._database.writer.submit(_insert, row)

    async def update(self, row: ReplicaRow) -> None:
        """Replace the row of that id, durably on return."""
        await self._database.writer.submit(_update, row)

    async def prune(self, deployment: str, keep: int) -> list[str]:
        """Delete the deployment's ended rows but for the `keep` newest; return the ids of the deleted."""
        return list(await self._database.writer.submit(_prune, (deployment, keep)))

    async def get(self, replica_id: str) -> ReplicaRow | None:
        """Return the row of that id."""
        rows = await self._select(replicas.c.id == replica_id)
        return rows[0] if rows else None

    async def of_agent(self, agent_hash: str) -> ReplicaRow | None:
        """Return the row whose agent shows the token of that hash, which is not empty."""
        rows = await self._select((replicas.c.agent_hash == agent_hash) & (replicas.c.agent_hash != ""))
        return rows[0] if rows else None

    async def unfinished(self) -> list[ReplicaRow]:
        """Return the rows behind which something may run, oldest first."""
        return await self._select(replicas.c.status.not_in(_FINAL))

    async def of(self, deployment: str) -> list[ReplicaRow]:
        """Return the rows of one deployment, oldest first."""
        return await self._select(replicas.c.deployment == deployment)

    async def _select(self, condition: Any) -> list[ReplicaRow]:
        query = select(replicas).where(condition).order_by(replicas.c.id)
        async with self._database.read() as connection:
            return [_row(row) for row in (await connection.execute(query)).mappings().all()]


def _insert(connection: Connection, rows: Sequence[ReplicaRow]) -> None:
    connection.execute(insert(replicas), [_values(row) for row in rows])


def _update(connection: Connection, rows: Sequence[ReplicaRow]) -> None:
    statement = update(replicas).where(replicas.c.id == bindparam("of"))
    connection.execute(statement, [_values(row) | {"of": row.id} for row in rows])


def _prune(connection: Connection, asked: Sequence[tuple[str, int]]) -> list[list[str]]:
    return [_pruned(connection, deployment, keep) for deployment, keep in asked]


def _pruned(connection: Connection, deployment: str, keep: int) -> list[str]:
    ended = (replicas.c.deployment == deployment) & replicas.c.status.in_(_FINAL)
    query = select(replicas.c.id).where(ended).order_by(replicas.c.id.desc()).offset(keep)
    old = list(connection.execute(query).scalars())
    if old:
        connection.execute(delete(replicas).where(replicas.c.id.in_(old)))
    return old


def _values(row: ReplicaRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in ReplicaRow.__slots__} | {"handle": dict(row.handle)}


def _row(row: RowMapping) -> ReplicaRow:
    return ReplicaRow(**{**row, "status": ReplicaStatus(row["status"]), "target": ReplicaTarget(row["target"])})

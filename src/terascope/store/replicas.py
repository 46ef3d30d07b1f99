"""Repository of `replicas`: what was started, where it stands, what is wanted of it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, delete, insert, select, update

from terascope.core.ids import new_id
from terascope.core.states import ReplicaStatus, ReplicaTarget
from terascope.store.database import Database
from terascope.store.tables import replica_events, replicas

KEPT_EVENTS = 1000
"""Events of a deployment that are remembered."""

_NEWEST_FIRST = (replica_events.c.time.desc(), replica_events.c.id.desc())
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


@dataclass(frozen=True, slots=True)
class ReplicaEvent:
    """A replica got another status at `time`, in seconds since the epoch; `message` says why."""

    id: str
    time: float
    deployment: str
    replica: str
    status: ReplicaStatus
    message: str


class ReplicaStore:
    """Reads and writes `replicas`. Every new status is entered into `replica_events` in the same transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, row: ReplicaRow) -> None:
        """Store a new `row`, durably on return."""
        await self._database.writer.submit(_insert, row)

    async def update(self, row: ReplicaRow) -> None:
        """Replace the row of that id, durably on return."""
        await self._database.writer.submit(_update, row)

    async def prune(self, deployment: str, keep: int) -> list[str]:
        """Delete the deployment's ended rows but for the `keep` newest; return the ids of the deleted.

        Of its events the newest `KEPT_EVENTS` are left.
        """
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

    async def events(self, deployment: str, limit: int) -> list[ReplicaEvent]:
        """Return the newest events of a deployment, newest first."""
        query = select(replica_events).where(replica_events.c.deployment == deployment)
        async with self._database.read() as connection:
            found = await connection.execute(query.order_by(*_NEWEST_FIRST).limit(limit))
        return [ReplicaEvent(**{**row, "status": ReplicaStatus(row["status"])}) for row in found.mappings().all()]

    async def _select(self, condition: Any) -> list[ReplicaRow]:
        query = select(replicas).where(condition).order_by(replicas.c.id)
        async with self._database.read() as connection:
            return [_row(row) for row in (await connection.execute(query)).mappings().all()]


def _insert(connection: Connection, rows: Sequence[ReplicaRow]) -> None:
    connection.execute(insert(replicas), [_values(row) for row in rows])
    _enter(connection, rows)


def _update(connection: Connection, rows: Sequence[ReplicaRow]) -> None:
    known = select(replicas.c.id, replicas.c.status).where(replicas.c.id.in_([row.id for row in rows]))
    before = {name: status for name, status in connection.execute(known)}  # noqa: C416 - rows are no pairs to mypy
    for row in rows:  # a batch may have several steps of one replica
        if row.id in before and before[row.id] != row.status:
            before[row.id] = row.status
            _enter(connection, [row])
    statement = update(replicas).where(replicas.c.id == bindparam("of"))
    connection.execute(statement, [_values(row) | {"of": row.id} for row in rows])


def _enter(connection: Connection, rows: Sequence[ReplicaRow]) -> None:
    events = [
        ReplicaEvent(new_id("event"), row.changed, row.deployment, row.id, row.status, row.message) for row in rows
    ]
    connection.execute(insert(replica_events), [asdict(event) for event in events])


def _prune(connection: Connection, asked: Sequence[tuple[str, int]]) -> list[list[str]]:
    return [_pruned(connection, deployment, keep) for deployment, keep in asked]


def _pruned(connection: Connection, deployment: str, keep: int) -> list[str]:
    ended = (replicas.c.deployment == deployment) & replicas.c.status.in_(_FINAL)
    query = select(replicas.c.id).where(ended).order_by(replicas.c.id.desc()).offset(keep)
    old = list(connection.execute(query).scalars())
    if old:
        connection.execute(delete(replicas).where(replicas.c.id.in_(old)))
    _prune_events(connection, deployment)
    return old


def _prune_events(connection: Connection, deployment: str) -> None:
    mine = replica_events.c.deployment == deployment
    query = select(replica_events.c.time).where(mine).order_by(*_NEWEST_FIRST).offset(KEPT_EVENTS).limit(1)
    if (newest := connection.execute(query).scalar()) is not None:
        connection.execute(delete(replica_events).where(mine & (replica_events.c.time <= newest)))


def _values(row: ReplicaRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in ReplicaRow.__slots__} | {"handle": dict(row.handle)}


def _row(row: RowMapping) -> ReplicaRow:
    return ReplicaRow(**{**row, "status": ReplicaStatus(row["status"]), "target": ReplicaTarget(row["target"])})

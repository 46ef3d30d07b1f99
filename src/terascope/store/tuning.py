"""Repository of `fine_tuning_jobs` and `fine_tuning_events`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, select, update

from terascope.core.errors import Conflict
from terascope.core.ids import new_id
from terascope.core.tuning import TUNING_TRANSITIONS, TuningMethod, TuningStatus
from terascope.store.audit import audited
from terascope.store.changes import one_by_one
from terascope.store.database import Database
from terascope.store.projects import check_project
from terascope.store.tables import fine_tuning_events, fine_tuning_jobs

_TOLD = count()
CHECKPOINT = "checkpoint"
"""The kind of events that tell of a checkpoint; the others are `message` and `metrics`."""


@dataclass(frozen=True, slots=True)
class JobRow:
    """One job; see `tables.py` for what its columns are. Times in seconds since the epoch."""

    id: str
    run_id: str
    project: str
    user_id: str
    key_id: str
    created: float
    method: TuningMethod
    asked_as: str
    base: str
    digest: str
    training_file: str
    validation_file: str
    suffix: str
    seed: int
    settings: Mapping[str, Any]
    tags: Mapping[str, str]
    status: TuningStatus = TuningStatus.VALIDATING
    started: float | None = None
    finished: float | None = None
    data_digest: str = ""
    most_tokens: int = 0
    step: int = 0
    steps: int = 0
    step_s: float = 0.0
    tokens: int = 0
    measured: int = 0
    loss: float | None = None
    held_out_loss: float | None = None
    saved: int = 0
    read: int = 0
    handle: Mapping[str, str | int] = field(default_factory=dict)
    result: str = ""
    metrics_file: str = ""
    error: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EventRow:
    """Something that happened to a job."""

    id: str
    job: str
    time: float
    level: str
    kind: str
    message: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Said:
    """An event that is to be told."""

    message: str
    level: str = "info"
    kind: str = "message"
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobChange:
    """New values of some columns of a job that is not over, and events that are told with them."""

    job: str
    now: float
    values: Mapping[str, Any] = field(default_factory=dict)
    said: Sequence[Said] = ()


class TuningStore:
    """Reads and writes jobs and their events. Every change is durable on return."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, row: JobRow, said: Said) -> None:
        """Store a new job. Raises `NotFound` without its project."""
        await audited(self._database, _add, (row, said), "tuning.create", row.id, base=row.base, project=row.project)

    async def change(self, change: JobChange) -> JobRow:
        """Change a job and tell of it: both or neither; return it as it is then.

        Raises `Conflict` when it is over, or may not go to the status that is wanted.
        """
        found: JobRow = await self._database.writer.submit(_change, change)
        return found

    async def get(self, job: str) -> JobRow | None:
        """Return the job of that id."""
        query = select(fine_tuning_jobs).where(fine_tuning_jobs.c.id == job)
        async with self._database.read() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        return _job(row) if row else None

    async def of(self, project: str, limit: int, *, after: str = "") -> list[JobRow]:
        """Return up to `limit` jobs of a project, newest first; those past the id `after`."""
        query = select(fine_tuning_jobs).where(fine_tuning_jobs.c.project == project)
        query = query.order_by(fine_tuning_jobs.c.id.desc()).limit(limit)
        if after:
            query = query.where(fine_tuning_jobs.c.id < after)
        async with self._database.read() as connection:
            return [_job(row) for row in (await connection.execute(query)).mappings().all()]

    async def events(
        self, job: str, limit: int, *, after: str = "", kind: str = "", oldest_first: bool = False
    ) -> list[EventRow]:
        """Return up to `limit` events of a job, newest first unless said otherwise; those past the id `after`."""
        table = fine_tuning_events
        query = select(table).where(table.c.job == job).limit(limit)
        query = query.order_by(table.c.id if oldest_first else table.c.id.desc())
        if after:
            query = query.where(table.c.id > after if oldest_first else table.c.id < after)
        if kind:
            query = query.where(table.c.kind == kind)
        async with self._database.read() as connection:
            return [EventRow(**row) for row in (await connection.execute(query)).mappings().all()]


@one_by_one
def _add(connection: Connection, added: tuple[JobRow, Said]) -> None:
    row, said = added
    check_project(connection, row.project)
    values = {name: getattr(row, name) for name in JobRow.__slots__}
    connection.execute(
        insert(fine_tuning_jobs).values(values | {"method": row.method.value, "status": row.status.value})
    )
    _tell(connection, row.id, row.created, [said])


@one_by_one
def _change(connection: Connection, change: JobChange) -> JobRow:
    mine = fine_tuning_jobs.c.id == change.job
    row = _job(connection.execute(select(fine_tuning_jobs).where(mine).with_for_update()).mappings().one())
    wanted = TuningStatus(change.values.get("status", row.status))
    if row.status.final or (wanted is not row.status and wanted not in TUNING_TRANSITIONS[row.status]):
        raise Conflict(f"the job {row.id} is {row.status} and cannot become {wanted} any more")
    if change.values:
        connection.execute(update(fine_tuning_jobs).where(mine).values({**change.values, "status": wanted.value}))
    _tell(connection, row.id, change.now, change.said)
    return replace(row, **{**change.values, "status": wanted})


def _tell(connection: Connection, job: str, now: float, said: Sequence[Said]) -> None:
    """Add events; their ids sort as they are told, also within one millisecond."""
    rows = [
        {
            "id": _event_id(), "job": job, "time": now, "level": one.level, "kind": one.kind,
            "message": one.message, "data": dict(one.data),
        }
        for one in said
    ]  # fmt: skip
    if rows:
        connection.execute(insert(fine_tuning_events), rows)


def _event_id() -> str:
    """An id that sorts behind those given out before it, also within one millisecond."""
    made = new_id("ftevent")
    start = len("ftevent_") + 12
    return f"{made[:start]}{next(_TOLD) % (1 << 32):08x}{made[start : start + 12]}"


def _job(row: RowMapping) -> JobRow:
    return JobRow(**{**row, "method": TuningMethod(row["method"]), "status": TuningStatus(row["status"])})

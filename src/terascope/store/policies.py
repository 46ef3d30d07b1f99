"""Repository of `policies`."""

from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select

from terascope.core.errors import NotFound
from terascope.store.audit import audited
from terascope.store.changes import one_by_one
from terascope.store.database import Database
from terascope.store.projects import check_project
from terascope.store.tables import policies


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """What a project may do with a model: `*`, a name for all its versions, or `name@version`."""

    project: str
    model: str
    modes: tuple[str, ...]
    qos: tuple[str, ...]


class PolicyStore:
    """Reads and writes `policies`. Every change is durable on return."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, row: PolicyRow) -> None:
        """Store `row` in place of what was there for the same model. Raises `NotFound`."""
        await audited(
            self._database,
            _put,
            row,
            "policy.put",
            row.project,
            model=row.model,
            modes=list(row.modes),
            qos=list(row.qos),
        )

    async def remove(self, project: str, model: str) -> None:
        """Forget what is allowed for `model`. Raises `NotFound`."""
        await audited(self._database, _remove, (project, model), "policy.remove", project, model=model)

    async def of(self, project: str) -> list[PolicyRow]:
        """Return the policies of a project, by model."""
        query = select(policies).where(policies.c.project == project).order_by(policies.c.model)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [PolicyRow(**{**row, "modes": tuple(row["modes"]), "qos": tuple(row["qos"])}) for row in rows]


@one_by_one
def _put(connection: Connection, row: PolicyRow) -> None:
    check_project(connection, row.project)
    connection.execute(delete(policies).where(policies.c.project == row.project, policies.c.model == row.model))
    values = {"project": row.project, "model": row.model, "modes": list(row.modes), "qos": list(row.qos)}
    connection.execute(insert(policies).values(values))


@one_by_one
def _remove(connection: Connection, which: tuple[str, str]) -> None:
    project, model = which
    found = connection.execute(delete(policies).where(policies.c.project == project, policies.c.model == model))
    if not found.rowcount:
        raise NotFound(f"{project!r} has no policy for {model[:200]!r}; `terascope projects show` lists them")

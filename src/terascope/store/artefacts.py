"""Repository of `artefacts`."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, delete, insert, select, update

from terascope.core.artefacts import ArtefactKind
from terascope.core.errors import Conflict, NotFound
from terascope.store.audit import audited
from terascope.store.changes import one_by_one
from terascope.store.database import Database
from terascope.store.projects import check_project
from terascope.store.tables import artefacts


@dataclass(frozen=True, slots=True)
class ArtefactRow:
    """One version of a soft prompt or projector; its bytes are elsewhere, by `digest`.

    `model` is the `name@version` that it was made for. `shape` is [vectors, width], or a projector's widths from its
    input to its output. `shared_with` are projects that may use it besides its own.
    """

    project: str
    kind: ArtefactKind
    name: str
    version: str
    model: str
    digest: str
    size: int
    shape: tuple[int, ...]
    activation: str
    shared_with: tuple[str, ...]
    note: str
    created: float
    created_by: str

    @property
    def public_name(self) -> str:
        """`project/name@version`."""
        return f"{self.project}/{self.name}@{self.version}"


class ArtefactStore:
    """Reads and writes `artefacts`. Every change is durable on return."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, row: ArtefactRow) -> None:
        """Store `row`. Raises `NotFound` without its project, and `Conflict` when that version is there."""
        await audited(self._database, _add, row, f"{row.kind}.add", row.public_name, model=row.model, digest=row.digest)

    async def share(self, row: ArtefactRow, shared_with: Sequence[str]) -> None:
        """Let `shared_with`, and no other project, use all versions of it too. Raises `NotFound`."""
        target = f"{row.project}/{row.name}"
        await audited(
            self._database, _share, (row, tuple(shared_with)), f"{row.kind}.share", target, projects=list(shared_with)
        )

    async def remove(self, row: ArtefactRow) -> bool:
        """Forget a version; return whether nothing else has its bytes. Raises `NotFound`."""
        found: bool = await audited(self._database, _remove, row, f"{row.kind}.remove", row.public_name)
        return found

    async def all(self, kind: ArtefactKind, name: str = "") -> list[ArtefactRow]:
        """Return the versions of one name, or of all, by project and name, and then oldest first."""
        query = select(artefacts).where(artefacts.c.kind == kind)
        query = query.where(artefacts.c.name == name) if name else query
        order = (artefacts.c.project, artefacts.c.name, artefacts.c.created, artefacts.c.version)
        async with self._database.read() as connection:
            rows = (await connection.execute(query.order_by(*order))).mappings().all()
        return [
            ArtefactRow(
                **{
                    **row,
                    "kind": ArtefactKind(row["kind"]),
                    "shape": tuple(row["shape"]),
                    "shared_with": tuple(row["shared_with"]),
                }
            )
            for row in rows
        ]


@one_by_one
def _add(connection: Connection, row: ArtefactRow) -> None:
    check_project(connection, row.project)
    if connection.execute(select(artefacts.c.name).where(_is(row))).first():
        raise Conflict(f"{row.public_name} is there already; choose another version", param="version")
    values = {name: getattr(row, name) for name in ArtefactRow.__slots__}
    connection.execute(
        insert(artefacts).values(
            values | {"kind": row.kind.value, "shape": list(row.shape), "shared_with": list(row.shared_with)}
        )
    )


@one_by_one
def _share(connection: Connection, which: tuple[ArtefactRow, tuple[str, ...]]) -> None:
    row, projects = which
    for project in projects:
        check_project(connection, project)
    every = and_(artefacts.c.project == row.project, artefacts.c.kind == row.kind, artefacts.c.name == row.name)
    connection.execute(update(artefacts).where(every).values(shared_with=list(projects)))


@one_by_one
def _remove(connection: Connection, row: ArtefactRow) -> bool:
    if not connection.execute(delete(artefacts).where(_is(row))).rowcount:
        raise NotFound(f"there is no {row.public_name}")
    return connection.execute(select(artefacts.c.name).where(artefacts.c.digest == row.digest)).first() is None


def _is(row: ArtefactRow) -> ColumnElement[bool]:
    return and_(
        artefacts.c.project == row.project,
        artefacts.c.kind == row.kind,
        artefacts.c.name == row.name,
        artefacts.c.version == row.version,
    )

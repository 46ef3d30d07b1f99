"""Repository of `service_accounts`: users that are no person, each of one project."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from terascope.core.errors import Conflict, NotFound
from terascope.core.projects import Role, service_user
from terascope.store.audit import audited
from terascope.store.changes import one_by_one
from terascope.store.database import Database
from terascope.store.members import MemberRow, insert_member
from terascope.store.projects import check_project
from terascope.store.tables import keys, members, service_accounts


@dataclass(frozen=True, slots=True)
class ServiceAccountRow:
    """One service account; its role is that of its user among the members of its project."""

    project: str
    name: str
    title: str
    created: float
    created_by: str

    @property
    def user_id(self) -> str:
        """The user that it is."""
        return service_user(self.project, self.name)


class ServiceAccountStore:
    """Reads and writes `service_accounts`. Every change is durable on return."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, row: ServiceAccountRow, role: Role) -> None:
        """Store `row` and make its user a member of its project. Raises `Conflict`, `NotFound`."""
        await audited(
            self._database, _add, (row, role), "service_account.create", row.project, name=row.name, role=role.value,
            title=row.title,
        )  # fmt: skip

    async def remove(self, project: str, name: str, when: float) -> None:
        """Remove the account and its membership and revoke its keys, all at once. Raises `NotFound`."""
        await audited(self._database, _remove, (project, name, when), "service_account.remove", project, name=name)

    async def get(self, project: str, name: str) -> ServiceAccountRow | None:
        """Return the account of that name."""
        async with self._database.read() as connection:
            query = select(service_accounts).where(_is(project, name))
            row = (await connection.execute(query)).mappings().one_or_none()
        return ServiceAccountRow(**row) if row else None

    async def of(self, *projects: str) -> list[ServiceAccountRow]:
        """Return the accounts of some projects, by project and name."""
        query = select(service_accounts).where(service_accounts.c.project.in_(projects))
        query = query.order_by(service_accounts.c.project, service_accounts.c.name)
        async with self._database.read() as connection:
            return [ServiceAccountRow(**row) for row in (await connection.execute(query)).mappings().all()]


@one_by_one
def _add(connection: Connection, added: tuple[ServiceAccountRow, Role]) -> None:
    row, role = added
    check_project(connection, row.project)
    if connection.execute(select(service_accounts.c.name).where(_is(row.project, row.name))).first():
        raise Conflict(f"{row.project} has a service account {row.name!r} already; choose another name", param="name")
    values = {name: getattr(row, name) for name in ServiceAccountRow.__slots__}
    connection.execute(insert(service_accounts).values(values))
    insert_member(connection, MemberRow(row.project, row.user_id, role, row.created))


@one_by_one
def _remove(connection: Connection, which: tuple[str, str, float]) -> None:
    project, name, when = which
    if not connection.execute(delete(service_accounts).where(_is(project, name))).rowcount:
        raise NotFound(f"{project} has no service account {name[:70]!r}; `terascope service-accounts list` shows them")
    user = service_user(project, name)
    connection.execute(delete(members).where(members.c.project == project, members.c.user_id == user))
    valid = keys.c.revoked.is_(None) & (keys.c.project == project) & (keys.c.user_id == user)
    connection.execute(update(keys).where(valid).values(revoked=when))


def _is(project: str, name: str) -> ColumnElement[bool]:
    return (service_accounts.c.project == project) & (service_accounts.c.name == name)

"""Who may give others access: keys and service accounts, made by operators, and by PIs within their own projects."""

from collections.abc import Sequence

from terascope.access.keys import Keys
from terascope.access.principal import Principal
from terascope.access.projects import Projects, Right
from terascope.access.scopes import OPERATOR
from terascope.core.clock import Clock
from terascope.core.errors import BadRequest, NotAllowed
from terascope.core.projects import LOCAL_PROJECT, SERVICE, Role, checked_account, checked_text, is_service
from terascope.store.keys import KeyRow
from terascope.store.service_accounts import ServiceAccountRow, ServiceAccountStore


class Issuance:
    """Makes, lists and takes back keys and service accounts.

    Without being an operator one does so only in a project that one leads. A key that a PI makes works in that project
    alone: its user may be a member of others, which are not hers to give.
    """

    def __init__(self, keys: Keys, accounts: ServiceAccountStore, projects: Projects, clock: Clock) -> None:
        self._keys = keys
        self._accounts = accounts
        self._projects = projects
        self._clock = clock

    async def create_key(
        self,
        who: Principal,
        name: str,
        scopes: Sequence[str],
        *,
        expires: float | None = None,
        user: str = "",
        project: str = "",
    ) -> tuple[str, KeyRow]:
        """Make a key as `Keys.create` does. Raises also `NotAllowed` for what `who` may not give."""
        project = project or (LOCAL_PROJECT if who.operator else who.project)
        if not who.operator:
            await self._projects.require(who, project, Right.MANAGE)
            _check_scopes(who, scopes)
        service = is_service(user or name)
        if service:
            await self._check_account(user or name, project, scopes)
        return await self._keys.create(
            name, [*scopes], expires=expires, user=user, project=project, confined=service or not who.operator
        )

    async def list_keys(self, who: Principal, project: str = "") -> list[KeyRow]:
        """Return every key for an operator; for a PI those of a project that she leads, but no operator's."""
        if who.operator:
            return await self._keys.list(project=project)
        if not project:
            raise NotAllowed("only an operator sees every key; name a project that you lead", param="project")
        await self._projects.require(who, project, Right.MANAGE)
        return [row for row in await self._keys.list(project=project) if OPERATOR not in row.scopes]

    async def revoke_key(self, who: Principal, key_id: str) -> KeyRow:
        """Make a key void. Raises `NotFound` for an operator, `NotAllowed` for anyone who may not, key or no key."""
        if not who.operator:
            row = await self._keys.get(key_id)
            project = await self._projects.find(row.project) if row and OPERATOR not in row.scopes else None
            if project is None or not project.allows(who, Right.MANAGE):
                raise NotAllowed("only an operator, or a PI of the key's project, may revoke that key")
        return await self._keys.revoke(key_id)

    async def create_account(
        self, who: Principal, project: str, name: str, role: Role, title: str = ""
    ) -> ServiceAccountRow:
        """Make a service account, a member of `project` in `role`. Raises `BadRequest`, `Conflict`, `NotFound`."""
        checked_account(f"{project}/{name}")
        await self._projects.require(who, project, Right.MANAGE)
        title = checked_text(title, "title", empty=True)
        row = ServiceAccountRow(project, name, title, self._clock.now(), who.user_id)
        await self._accounts.add(row, role)
        self._projects.forget(project)
        return row

    async def list_accounts(self, who: Principal, project: str = "") -> list[ServiceAccountRow]:
        """Return the service accounts of a project, or of all that `who` may see. Raises `NotFound`."""
        if project:
            await self._projects.require(who, project, Right.SEE)
            return await self._accounts.of(project)
        return await self._accounts.of(*[row.name for row in await self._projects.visible_to(who)])

    async def remove_account(self, who: Principal, project: str, name: str) -> None:
        """Remove a service account: its keys and tokens are void from now on. Raises `NotFound`, `NotAllowed`."""
        await self._projects.require(who, project, Right.MANAGE)
        await self._accounts.remove(project, name, self._clock.now())
        self._projects.forget(project)
        self._keys.forget()

    async def _check_account(self, user: str, project: str, scopes: Sequence[str]) -> None:
        its_project, name = checked_account(user.removeprefix(f"{SERVICE}:"))
        if its_project != project or await self._accounts.get(project, name) is None:
            raise BadRequest(
                f"there is no service account {user[:140]!r} in the project {project}; `terascope service-accounts "
                "create` makes one",
                param="user",
            )
        if OPERATOR in scopes:
            raise BadRequest("a service account is of one project, so it cannot be an operator", param="scopes")


def _check_scopes(who: Principal, scopes: Sequence[str]) -> None:
    if lacking := sorted(set(scopes) - who.scopes):
        raise NotAllowed(f"you cannot give the scope {lacking[0]!r}, which you do not have; ask an operator")

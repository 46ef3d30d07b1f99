"""Projects: who their members are and what they may do; whatever is not allowed is denied."""

import asyncio
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial

from terascope.access.principal import Principal
from terascope.core.clock import Clock
from terascope.core.errors import BadRequest, Conflict, NotAllowed
from terascope.core.models import Mode, ModelName, ModelVersion
from terascope.core.projects import (
    LOCAL_PROJECT,
    PROJECT_PATTERN,
    Qos,
    Role,
    checked_project,
    checked_shares,
    checked_text,
    is_service,
)
from terascope.store.database import Database
from terascope.store.members import MemberRow, MemberStore
from terascope.store.policies import PolicyRow, PolicyStore
from terascope.store.projects import ProjectRow, ProjectStore, no_project
from terascope.store.rights import rights_of

EVERY_MODEL = "*"
_CACHE_S = 5.0  # another gateway's change is seen within this time; one's own at once
_CACHED = 10_000


class Right(StrEnum):
    """What a member may do in a project."""

    USE = "use"  # ask models, paid by the project
    SEE = "see"  # the project, its members, policies and allocations, one's own usage
    AUDIT = "audit"  # everybody's usage
    MANAGE = "manage"  # say who is a member


RIGHTS: dict[Role, frozenset[Right]] = {
    Role.PI: frozenset(Right),
    Role.MEMBER: frozenset({Right.USE, Right.SEE}),
    Role.AUDITOR: frozenset({Right.SEE, Right.AUDIT}),
}
"""What each role may do; an operator may do everything in every project."""


@dataclass(frozen=True, slots=True)
class Project:
    """A project as admission needs it."""

    name: str
    closed: bool
    roles: Mapping[str, Role]
    policies: tuple[PolicyRow, ...]
    shares: int = 1
    unlimited: str = ""
    """Its allocation without a limit, if one may be used now."""
    until: float = field(default=0.0, compare=False)
    """When it is to be looked at again, in monotonic seconds."""

    def allows(self, who: Principal, right: Right) -> bool:
        """Whether `who` may do that here."""
        return who.operator or any(right in RIGHTS[role] for role in self.roles_of(who))

    def roles_of(self, who: Principal) -> list[Role]:
        """What `who` is here, as a member and by its groups: none, one or two roles, that of a PI first."""
        if who.confined and who.project != self.name:
            return []
        found = {self.roles.get(who.user_id), who.roles.get(self.name)}
        return [role for role in Role if role in found]

    def check(self, version: ModelVersion, mode: Mode, qos: Qos) -> None:
        """Raise `NotAllowed` unless the project may use `version` so."""
        if self.closed:
            raise NotAllowed(f"the project {self.name} is closed; ask an operator to open it again")
        if version.owner and version.owner != self.name:
            raise NotAllowed(f"{version.name} is not of the project {self.name}; ask with a key of its own")
        names = {EVERY_MODEL, version.name, version.public_name, version.base_name, version.served_as}
        fitting = [one for one in self.policies if one.model in names and mode in one.modes]
        if not fitting:
            raise NotAllowed(f"the project {self.name} may not use {version.name} in the mode {mode}; ask an operator")
        if not any(qos in one.qos for one in fitting):
            raise NotAllowed(f"the project {self.name} may not use {version.name} with the QOS {qos}; ask an operator")

    @property
    def pis(self) -> list[str]:
        """The users who lead the project."""
        return sorted(user for user, role in self.roles.items() if role is Role.PI)


class Projects:
    """Keeps projects, their members and their policies."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._projects = ProjectStore(database)
        self._members = MemberStore(database)
        self._policies = PolicyStore(database)
        self._database = database
        self._clock = clock
        self._cache: OrderedDict[str, tuple[float, Project | None]] = OrderedDict()
        self._loading: dict[str, asyncio.Future[Project | None]] = {}
        self.changes = 0
        """How often a project was changed here: what was concluded before another change is void."""

    def known(self, name: str) -> Project | None:
        """The project when it was looked at within the last seconds, without waiting."""
        found = self._cache.get(name)
        return found[1] if found is not None and self._clock.monotonic() - found[0] <= _CACHE_S else None

    async def find(self, name: str) -> Project | None:
        """Return the project as it is now, or as it was a few seconds ago; None when there is none."""
        found = self._cache.get(name)
        if not re.fullmatch(PROJECT_PATTERN, name):
            return None
        if found is None or self._clock.monotonic() - found[0] > _CACHE_S:
            return await self._load_once(name)
        return found[1]

    async def _load_once(self, name: str) -> Project | None:
        """Requests that come together share one look into the store."""
        loading = self._loading.get(name)
        if loading is None:
            loading = self._loading[name] = asyncio.ensure_future(self._load(name))
            loading.add_done_callback(partial(self._loaded, name, self._clock.monotonic()))
        return await asyncio.shield(loading)

    def _loaded(self, name: str, began: float, loading: asyncio.Future[Project | None]) -> None:
        if self._loading.get(name) is not loading:
            return  # it was changed since
        del self._loading[name]
        if loading.cancelled() or loading.exception():
            return
        self._cache[name] = (began, loading.result())
        self._cache.move_to_end(name)
        if len(self._cache) > _CACHED:
            self._cache.popitem(last=False)

    async def for_use(self, who: Principal, name: str) -> Project:
        """Return the project that is to pay for a request of `who`. Raises `NotAllowed`, whether it exists or not."""
        project = self.known(name) or await self.find(name)
        if project is None or not project.allows(who, Right.USE):
            raise NotAllowed(
                f"this key may not use the project {name[:70]!r}; ask its PI to make {who.user_id!r} a member",
                param="X-Terascope-Project",
            )
        return project

    async def require(self, who: Principal, name: str, right: Right) -> Project:
        """Return the project if `who` has `right` in it.

        Raises `NotFound` when there is none or `who` may not even see it, else `NotAllowed`.
        """
        project = await self.find(name)
        if project is None or not project.allows(who, Right.SEE):
            raise no_project(name)
        if not project.allows(who, right):
            raise NotAllowed(f"your role in {name} does not allow that; ask its PI or an operator")
        return project

    async def visible_to(self, who: Principal) -> list[ProjectRow]:
        """Return the projects that `who` may see, by name."""
        if who.operator:
            return await self._projects.all()
        found = await self._projects.all(of_user=who.user_id, besides=tuple(who.roles))
        return [row for row in found if not who.confined or row.name == who.project]

    async def all(self) -> list[ProjectRow]:
        """Return every project, by name."""
        return await self._projects.all()

    async def get(self, name: str) -> ProjectRow:
        """Return a project's row. Raises `NotFound`."""
        row = await self._projects.get(name)
        if row is None:
            raise no_project(name)
        return row

    async def create(self, name: str, title: str = "", *, pi: str = "") -> ProjectRow:
        """Make a project that may do nothing yet, led by `pi` if that is named. Raises `BadRequest`, `Conflict`."""
        row = ProjectRow(checked_project(name), checked_text(title, "title", empty=True), self._clock.now())
        leader = checked_text(pi, "pi", empty=True)
        await self._projects.add(row)
        self.forget(name)
        if leader:
            await self.put_member(name, leader, Role.PI)
        return row

    async def change(
        self, name: str, *, title: str | None = None, closed: bool | None = None, shares: int | None = None
    ) -> ProjectRow:
        """Give a project another title or other shares, close it or open it again; return it.

        Raises as `create` does.
        """
        if closed and name == LOCAL_PROJECT:
            raise Conflict("the project `local` cannot be closed; take its policies away instead", param="closed")
        row = await self.get(name)
        if title is not None:
            row = replace(row, title=checked_text(title, "title", empty=True))
        if shares is not None:
            row = replace(row, shares=checked_shares(shares))
        if closed is not None:
            row = replace(row, closed=(row.closed or self._clock.now()) if closed else None)
        await self._projects.put(row)
        self.forget(name)
        return row

    async def members(self, name: str) -> list[MemberRow]:
        """Return the members of a project, by user."""
        return await self._members.of(name)

    async def put_member(self, name: str, user_id: str, role: Role) -> MemberRow:
        """Make a user a member or change their role. Raises `BadRequest`, `NotFound`."""
        if is_service(user_id):
            raise BadRequest(
                "a service account gets its role when it is made; remove it and make it anew", param="user"
            )
        row = MemberRow(name, checked_text(user_id, "user"), role, self._clock.now())
        stored = await self._members.put(row)
        self.forget(name)
        return stored

    async def remove_member(self, name: str, user_id: str) -> None:
        """Make a user no member any more: their next request is refused. Raises `BadRequest`, `NotFound`."""
        if is_service(user_id):
            raise BadRequest("a service account goes with `terascope service-accounts remove`", param="user")
        await self._members.remove(name, user_id)
        self.forget(name)

    async def policies(self, name: str) -> list[PolicyRow]:
        """Return what a project may do, by model."""
        return await self._policies.of(name)

    async def put_policy(self, name: str, model: str, modes: Iterable[str], qos: Iterable[str]) -> PolicyRow:
        """Allow a project to use `model` (`*`, a name, or `name@version`) so. Raises `BadRequest`, `NotFound`."""
        if model != EVERY_MODEL:
            ModelName.parse(model)
        row = PolicyRow(name, model, _chosen(modes, Mode, "modes"), _chosen(qos, Qos, "qos"))
        await self._policies.put(row)
        self.forget(name)
        return row

    async def remove_policy(self, name: str, model: str) -> None:
        """Allow a model no more. Raises `NotFound`."""
        await self._policies.remove(name, model)
        self.forget(name)

    def forget(self, name: str) -> None:
        """Look at the project anew the next time, even where somebody is looking now."""
        self.changes += 1
        self._cache.pop(name, None)
        self._loading.pop(name, None)

    async def _load(self, name: str) -> Project | None:
        until = self._clock.monotonic() + _CACHE_S
        found = await rights_of(self._database, name)
        if found is None:
            return None
        now = self._clock.now()
        open_now = (one for one, starts, ends in found.unlimited if starts <= now and (ends is None or now < ends))
        return Project(name, found.closed, found.roles, found.policies, found.shares, next(open_now, ""), until)


def _chosen(given: Iterable[str], kind: type[Mode] | type[Qos], what: str) -> tuple[str, ...]:
    chosen = set(given)
    if not chosen or chosen - set(kind):
        wrong = f"there is no {min(chosen - set(kind))!r}" if chosen else "there is none"
        raise BadRequest(f"{wrong} in `{what}`; choose from {', '.join(kind)}", param=what)
    return tuple(str(one) for one in kind if one in chosen)

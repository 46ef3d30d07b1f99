"""What can be asked about projects and their members."""

from collections.abc import Sequence
from urllib.parse import quote

from terascope.client.ask import Ask, Noun, Sender, call
from terascope.core.models import Mode
from terascope.core.projects import Qos, Role
from terascope.protocol.projects import (
    ChangeProject,
    CreateProject,
    MemberView,
    MemberViews,
    PolicyView,
    ProjectView,
    ProjectViews,
    SetMember,
    SetPolicy,
)


class Projects(Noun[Sender]):
    """The projects: all of them for an operator, else those that one is a member of."""

    @call
    def list(self) -> Ask[ProjectViews]:
        """Return the projects, by name."""
        return Ask("GET", _PROJECTS, ProjectViews)

    @call
    def get(self, name: str) -> Ask[ProjectView]:
        """Return one project and what it may do."""
        return Ask("GET", project_path(name), ProjectView)

    @call
    def create(self, name: str, *, title: str = "", pi: str = "") -> Ask[ProjectView]:
        """Make a project that may do nothing yet, led by `pi`; needs an operator's key."""
        return Ask("POST", _PROJECTS, ProjectView, CreateProject(name=name, title=title, pi=pi))

    @call
    def change(
        self, name: str, *, title: str | None = None, closed: bool | None = None, shares: int | None = None
    ) -> Ask[ProjectView]:
        """Give a project another title or other shares, close it or open it again; needs an operator's key."""
        return Ask("PATCH", project_path(name), ProjectView, ChangeProject(title=title, closed=closed, shares=shares))

    @call
    def allow(self, name: str, model: str, modes: Sequence[str] = (), qos: Sequence[str] = ()) -> Ask[PolicyView]:
        """Say how a project may use a model (`*`: every model); needs an operator's key."""
        chosen: dict[str, object] = {}
        if modes:
            chosen["modes"] = [Mode(one) for one in modes]
        if qos:
            chosen["qos"] = [Qos(one) for one in qos]
        return Ask("PUT", project_path(name, "policies", model), PolicyView, SetPolicy.model_validate(chosen))

    @call
    def deny(self, name: str, model: str) -> Ask[None]:
        """Take back what was allowed for `model`; needs an operator's key."""
        return Ask("DELETE", project_path(name, "policies", model), type(None))


class Members(Noun[Sender]):
    """The members of projects; changes need the key of a PI or an operator."""

    @call
    def list(self, project: str) -> Ask[MemberViews]:
        """Return the members of a project, by user."""
        return Ask("GET", project_path(project, "members"), MemberViews)

    @call
    def put(self, project: str, user: str, role: str = Role.MEMBER) -> Ask[MemberView]:
        """Make a user a member, or give a member another role."""
        return Ask("PUT", project_path(project, "members", user), MemberView, SetMember(role=Role(role)))

    @call
    def remove(self, project: str, user: str) -> Ask[None]:
        """Make a user no member any more."""
        return Ask("DELETE", project_path(project, "members", user), type(None))


_PROJECTS = "/admin/v1/projects"


def project_path(name: str, *more: str) -> str:
    """The path of a project, or of something below it."""
    return "/".join([_PROJECTS, quote(name, safe=""), *(quote(one, safe="/@*") for one in more)])

"""`/admin/v1/projects`: who may use what. An operator sees and changes all of it, a PI her own project."""

from fastapi import APIRouter, Response

from terascope.access.principal import Principal
from terascope.access.projects import Right
from terascope.gateway.depends import Caller, Operator, UseServices
from terascope.gateway.services import Services
from terascope.protocol.projects import (
    ChangeProject,
    CreateProject,
    MemberView,
    MemberViews,
    PolicyModel,
    PolicyView,
    ProjectName,
    ProjectView,
    ProjectViews,
    SetMember,
    SetPolicy,
)
from terascope.store.members import MemberRow
from terascope.store.policies import PolicyRow
from terascope.store.projects import ProjectRow

router = APIRouter(prefix="/admin/v1/projects", tags=["admin: projects"])


@router.get("")
async def list_projects(use: UseServices, who: Caller) -> ProjectViews:
    """The projects that the caller is a member of; every project for an operator."""
    return ProjectViews(data=[await _view(use, who, row) for row in await use.access.projects.visible_to(who)])


@router.post("", status_code=201)
async def create_project(asked: CreateProject, use: UseServices, who: Operator) -> ProjectView:
    """Make a project. It may do nothing yet: policies and allocations say what."""
    return await _view(use, who, await use.access.projects.create(asked.name, asked.title, pi=asked.pi))


@router.get("/{project}")
async def show_project(project: ProjectName, use: UseServices, who: Caller) -> ProjectView:
    """One project and what it may do."""
    await use.access.projects.require(who, project, Right.SEE)
    return await _view(use, who, await use.access.projects.get(project))


@router.patch("/{project}")
async def change_project(project: ProjectName, asked: ChangeProject, use: UseServices, who: Operator) -> ProjectView:
    """Give a project another title or other shares, close it, or open it again."""
    changed = await use.access.projects.change(project, title=asked.title, closed=asked.closed, shares=asked.shares)
    return await _view(use, who, changed)


@router.put("/{project}/policies/{model:path}")
async def set_policy(
    project: ProjectName, model: PolicyModel, asked: SetPolicy, use: UseServices, who: Operator
) -> PolicyView:
    """Say how a project may use a model: `*` for every model, a name for all its versions, or `name@version`."""
    return _policy(await use.access.projects.put_policy(project, model, asked.modes, asked.qos))


@router.delete("/{project}/policies/{model:path}", status_code=204)
async def remove_policy(project: ProjectName, model: PolicyModel, use: UseServices, who: Operator) -> Response:
    """Allow a model no more."""
    await use.access.projects.remove_policy(project, model)
    return Response(status_code=204)


@router.get("/{project}/members")
async def list_members(project: ProjectName, use: UseServices, who: Caller) -> MemberViews:
    """The members of a project and their roles."""
    await use.access.projects.require(who, project, Right.SEE)
    return MemberViews(data=[_member(row) for row in await use.access.projects.members(project)])


@router.put("/{project}/members/{user:path}")
async def set_member(project: ProjectName, user: str, asked: SetMember, use: UseServices, who: Caller) -> MemberView:
    """Make a user a member, or give a member another role; for PIs of the project and operators."""
    await use.access.projects.require(who, project, Right.MANAGE)
    return _member(await use.access.projects.put_member(project, user, asked.role))


@router.delete("/{project}/members/{user:path}", status_code=204)
async def remove_member(project: ProjectName, user: str, use: UseServices, who: Caller) -> Response:
    """Make a user no member any more, at once; for PIs of the project and operators."""
    await use.access.projects.require(who, project, Right.MANAGE)
    await use.access.projects.remove_member(project, user)
    return Response(status_code=204)


async def _view(use: Services, who: Principal, row: ProjectRow) -> ProjectView:
    known = await use.access.projects.find(row.name)
    return ProjectView(
        name=row.name,
        title=row.title,
        shares=row.shares,
        created=row.created,
        closed=row.closed,
        role=next(iter(known.roles_of(who)), None) if known else None,
        policies=[_policy(one) for one in known.policies] if known else [],
    )


def _policy(row: PolicyRow) -> PolicyView:
    return PolicyView(model=row.model, modes=list(row.modes), qos=list(row.qos))


def _member(row: MemberRow) -> MemberView:
    return MemberView(user=row.user_id, role=row.role, added=row.added)

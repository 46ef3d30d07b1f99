"""`/admin/v1/service-accounts`: users that are no person. A PI makes them in her own project."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from terascope.gateway.depends import NO_NUL, Caller, UseServices
from terascope.gateway.services import Services
from terascope.protocol.identity import AccountName, CreateServiceAccount, ServiceAccountView, ServiceAccountViews
from terascope.protocol.projects import ProjectName
from terascope.store.service_accounts import ServiceAccountRow

router = APIRouter(prefix="/admin/v1/service-accounts", tags=["admin: service accounts"])


@router.get("")
async def list_accounts(
    use: UseServices,
    who: Caller,
    project: Annotated[str, Query(max_length=64, pattern=NO_NUL, description="Only those of this project.")] = "",
) -> ServiceAccountViews:
    """The service accounts of the projects that the caller may see."""
    return ServiceAccountViews(
        data=[await _view(use, row) for row in await use.access.issuance.list_accounts(who, project)]
    )


@router.post("", status_code=201)
async def create_account(asked: CreateServiceAccount, use: UseServices, who: Caller) -> ServiceAccountView:
    """Make a service account, a member of its project; for PIs of the project and operators."""
    row = await use.access.issuance.create_account(who, asked.project, asked.name, asked.role, asked.title)
    return await _view(use, row)


@router.delete("/{project}/{name}", status_code=204)
async def remove_account(project: ProjectName, name: AccountName, use: UseServices, who: Caller) -> Response:
    """Remove a service account and revoke its keys at once; for PIs of the project and operators."""
    await use.access.issuance.remove_account(who, project, name)
    return Response(status_code=204)


async def _view(use: Services, row: ServiceAccountRow) -> ServiceAccountView:
    project = await use.access.projects.find(row.project)
    return ServiceAccountView(
        project=row.project, name=row.name, user=row.user_id, title=row.title,
        role=project.roles.get(row.user_id) if project else None, created=row.created, created_by=row.created_by,
    )  # fmt: skip

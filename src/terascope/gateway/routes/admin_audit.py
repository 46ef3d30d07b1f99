"""`/admin/v1/audit`: who changed access or money."""

from typing import Annotated

from fastapi import APIRouter, Query

from terascope.gateway.depends import NO_NUL, Operator, UseServices
from terascope.protocol.allocations import AuditView, AuditViews
from terascope.store.audit import AuditRow

router = APIRouter(prefix="/admin/v1/audit", tags=["admin: audit"])


@router.get("")
async def list_changes(
    use: UseServices,
    who: Operator,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    target: Annotated[str, Query(max_length=400, pattern=NO_NUL, description="Only changes of this.")] = "",
    user: Annotated[str, Query(max_length=200, pattern=NO_NUL, description="Only changes by this user.")] = "",
    before: Annotated[str, Query(max_length=60, pattern=NO_NUL, description="Only older than this change's id.")] = "",
) -> AuditViews:
    """Changes of access and money, newest first."""
    found = await use.access.audit.newest(limit + 1, before=before, target=target, user_id=user)
    return AuditViews(data=[_view(row) for row in found[:limit]], has_more=len(found) > limit)


def _view(row: AuditRow) -> AuditView:
    return AuditView(
        id=row.id, time=row.time, action=row.action, target=row.target, details=dict(row.details),
        user=row.user_id, key_id=row.key_id, address=row.address,
    )  # fmt: skip

"""`/admin/v1/keys`: who may ask. An operator sees and makes all of them, a PI those of her own project."""

from typing import Annotated

from fastapi import APIRouter, Query

from terascope.gateway.depends import NO_NUL, Caller, UseServices
from terascope.protocol.admin import CreateKey, KeyView, KeyViews, NewKey
from terascope.store.keys import KeyRow

router = APIRouter(prefix="/admin/v1/keys", tags=["admin: keys"])


@router.get("")
async def list_keys(
    use: UseServices,
    who: Caller,
    project: Annotated[str, Query(max_length=64, pattern=NO_NUL, description="Only those of this project.")] = "",
) -> KeyViews:
    """Every key, without the keys; for a PI those of a project that she leads."""
    return KeyViews(data=[_view(row) for row in await use.access.issuance.list_keys(who, project)])


@router.post("", status_code=201)
async def create_key(asked: CreateKey, use: UseServices, who: Caller) -> NewKey:
    """Make a key. This answer is the only place where it is ever shown. A PI's works in her project only."""
    key, row = await use.access.issuance.create_key(
        who, asked.name, asked.scopes, expires=asked.expires, user=asked.user, project=asked.project
    )
    return NewKey(**_view(row).model_dump(), key=key)


@router.delete("/{key_id}")
async def revoke_key(key_id: str, use: UseServices, who: Caller) -> KeyView:
    """Make a key void at once; for operators, and for a PI of the key's project unless it is an operator's."""
    return _view(await use.access.issuance.revoke_key(who, key_id))


def _view(row: KeyRow) -> KeyView:
    return KeyView(
        id=row.id, name=row.name, prefix=row.prefix, scopes=list(row.scopes), created=row.created,
        expires=row.expires, revoked=row.revoked, user=row.user_id, project=row.project, confined=row.confined,
    )  # fmt: skip

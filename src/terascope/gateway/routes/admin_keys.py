"""`/admin/v1/keys`: who may ask."""

from fastapi import APIRouter

from terascope.gateway.depends import Operator, UseServices
from terascope.protocol.admin import CreateKey, KeyView, KeyViews, NewKey
from terascope.store.keys import KeyRow

router = APIRouter(prefix="/admin/v1/keys", tags=["admin: keys"])


@router.get("")
async def list_keys(use: UseServices, who: Operator) -> KeyViews:
    """Every key, without the keys."""
    return KeyViews(data=[_view(row) for row in await use.access.keys.list()])


@router.post("", status_code=201)
async def create_key(asked: CreateKey, use: UseServices, who: Operator) -> NewKey:
    """Make a key. This answer is the only place where it is ever shown."""
    key, row = await use.access.keys.create(
        asked.name, asked.scopes, expires=asked.expires, user=asked.user, project=asked.project
    )
    return NewKey(**_view(row).model_dump(), key=key)


@router.delete("/{key_id}")
async def revoke_key(key_id: str, use: UseServices, who: Operator) -> KeyView:
    """Make a key void at once."""
    return _view(await use.access.keys.revoke(key_id))


def _view(row: KeyRow) -> KeyView:
    return KeyView(
        id=row.id, name=row.name, prefix=row.prefix, scopes=list(row.scopes), created=row.created,
        expires=row.expires, revoked=row.revoked, user=row.user_id, project=row.project,
    )  # fmt: skip

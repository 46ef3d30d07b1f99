"""`/admin/v1/adapters`: the adapters of the catalogue, for operators."""

from fastapi import APIRouter, Response

from terascope.core.errors import ModelNotFound
from terascope.core.models import ModelVersion
from terascope.gateway.depends import Operator, UseServices
from terascope.gateway.routes.admin_models import view
from terascope.gateway.services import Services
from terascope.protocol.admin import AddAdapter, ModelView, ModelViews, Name

router = APIRouter(prefix="/admin/v1/adapters", tags=["admin: adapters"])


@router.get("")
async def list_adapters(use: UseServices, who: Operator) -> ModelViews:
    """Every version of every adapter."""
    return ModelViews(data=[view(use, version) for version in use.catalog.list() if version.parent])


@router.post("", status_code=201)
async def add_adapter(asked: AddAdapter, use: UseServices, who: Operator) -> ModelView:
    """Read a LoRA adapter and pin it as `base:name@version`. Idempotent for the same files."""
    owner = (await use.access.projects.get(asked.project)).name if asked.project else ""
    added = await use.catalog.add_adapter(
        asked.name, asked.source, asked.base, version=asked.version, owner=owner, licence=asked.licence
    )
    return view(use, added)


@router.get("/{adapter:path}")
async def show_adapter(adapter: Name, use: UseServices, who: Operator) -> ModelView:
    """One version, by `base:adapter` or `base:adapter@version`."""
    return view(use, _adapter(use, adapter))


@router.delete("/{adapter:path}", status_code=204)
async def remove_adapter(adapter: Name, use: UseServices, who: Operator) -> Response:
    """Remove one version from the catalogue; its files stay where they are."""
    version = _adapter(use, adapter)
    await use.catalog.remove(version.name, version.version)
    return Response(status_code=204)


def _adapter(use: Services, name: str) -> ModelVersion:
    version = use.catalog.resolve(name)
    if not version.parent:
        raise ModelNotFound(f"{name[:200]!r} is no adapter; GET /admin/v1/adapters lists them", param="adapter")
    return version

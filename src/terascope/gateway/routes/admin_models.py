"""`/admin/v1/models`: the catalogue, for operators."""

from dataclasses import fields

from fastapi import APIRouter, Response

from terascope.core.models import ModelName, ModelVersion
from terascope.gateway.depends import Operator, UseServices
from terascope.gateway.services import Services
from terascope.protocol.admin import AddModel, FileView, ModelView, ModelViews, Name, NewName, SetAlias

router = APIRouter(prefix="/admin/v1/models", tags=["admin: models"])
_FIELDS = tuple(one.name for one in fields(ModelVersion))


@router.get("")
async def list_versions(use: UseServices, who: Operator) -> ModelViews:
    """Every version of every model."""
    return ModelViews(data=[view(use, version) for version in use.catalog.list()])


@router.post("", status_code=201)
async def add(asked: AddModel, use: UseServices, who: Operator) -> ModelView:
    """Fetch a model and pin it as `name@version`. Idempotent for the same files."""
    version = await use.catalog.add(asked.name, asked.source, version=asked.version, aliases=tuple(asked.aliases))
    return view(use, version)


@router.put("/aliases/{alias:path}")
async def set_alias(alias: NewName, asked: SetAlias, use: UseServices, who: Operator) -> ModelView:
    """Point an alias to a model or to one version of it."""
    await use.catalog.alias(alias, asked.target)
    return view(use, use.catalog.resolve(alias))


@router.delete("/aliases/{alias:path}", status_code=204)
async def remove_alias(alias: NewName, use: UseServices, who: Operator) -> Response:
    """Remove an alias; the model stays."""
    await use.catalog.remove_alias(alias)
    return Response(status_code=204)


@router.get("/{model:path}")
async def show(model: Name, use: UseServices, who: Operator) -> ModelView:
    """One version, by name, `name@version` or alias."""
    return view(use, use.catalog.resolve(model))


@router.delete("/{model:path}", status_code=204)
async def remove(model: Name, use: UseServices, who: Operator) -> Response:
    """Remove one version, given as `name@version`, from the catalogue; its files in the cache stay."""
    name = ModelName.parse(model)
    await use.catalog.remove(name.name, name.version or use.catalog.resolve(model).version)
    return Response(status_code=204)


def view(use: Services, version: ModelVersion) -> ModelView:
    """Return a version as it is shown, with its aliases and its state."""
    return ModelView(
        **{name: getattr(version, name) for name in _FIELDS if name not in ("files", "own_price")},
        price_prompt=version.price.prompt,
        price_output=version.price.output,
        aliases=list(use.catalog.aliases_of(version)),
        state=use.fleet.state(version.served_as),
        files=[FileView(path=file.path, size=file.size, sha256=file.sha256) for file in version.files],
    )

"""`/admin/v1/artefacts`: soft prompts and projectors of projects."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from terascope.access.artefacts import NewArtefact
from terascope.core.artefacts import ArtefactKind
from terascope.core.errors import BadRequest
from terascope.gateway.depends import NO_NUL, Caller, UseServices
from terascope.internals.packing import decode_base64
from terascope.protocol.artefacts import AddArtefact, ArtefactView, ArtefactViews, Kind, ShareArtefact
from terascope.store.artefacts import ArtefactRow

router = APIRouter(prefix="/admin/v1/artefacts", tags=["admin: artefacts"])


@router.get("/{kind}")
async def list_artefacts(
    kind: Kind, use: UseServices, who: Caller, project: Annotated[str, Query(pattern=NO_NUL)] = ""
) -> ArtefactViews:
    """What projects that the caller may see, or one of them, have or may use."""
    return _views(await use.artefacts.visible_to(who, ArtefactKind(kind), project))


@router.post("/{kind}", status_code=201)
async def add_artefact(kind: Kind, asked: AddArtefact, use: UseServices, who: Caller) -> ArtefactView:
    """Register a version for a model; a member of the project may."""
    try:
        data = decode_base64(asked.data)
    except BadRequest as error:
        raise BadRequest(f"data: {error.message}", param="data") from None
    activation = asked.activation if kind == ArtefactKind.PROJECTOR.value else ""
    new = NewArtefact(asked.project, ArtefactKind(kind), asked.name, asked.version, data, activation, asked.note)
    return _view(await use.artefacts.add(who, new, use.catalog.resolve(asked.model)))


@router.get("/{kind}/{project}/{name}")
async def show_artefact(kind: Kind, project: str, name: str, use: UseServices, who: Caller) -> ArtefactViews:
    """All versions of one."""
    return _views(await use.artefacts.versions(who, ArtefactKind(kind), project, name))


@router.delete("/{kind}/{project}/{name}", status_code=204)
async def remove_artefact(
    kind: Kind,
    project: str,
    name: str,
    use: UseServices,
    who: Caller,
    version: Annotated[str, Query(pattern=NO_NUL)] = "",
) -> Response:
    """Forget a version, or all."""
    await use.artefacts.remove(who, ArtefactKind(kind), project, name, version)
    return Response(status_code=204)


@router.put("/{kind}/{project}/{name}/shared_with")
async def share_artefact(
    kind: Kind, project: str, name: str, asked: ShareArtefact, use: UseServices, who: Caller
) -> ArtefactViews:
    """Say which other projects may use it; for a PI of its project."""
    return _views(await use.artefacts.share(who, ArtefactKind(kind), project, name, asked.projects))


def _view(row: ArtefactRow) -> ArtefactView:
    shown = {name: getattr(row, name) for name in ArtefactView.model_fields}
    return ArtefactView(**shown | {"kind": row.kind.value})


def _views(rows: list[ArtefactRow]) -> ArtefactViews:
    return ArtefactViews(data=[_view(row) for row in rows])

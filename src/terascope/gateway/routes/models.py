"""`/v1/models`: what there is to ask."""

from fastapi import APIRouter

from terascope.access.principal import Principal
from terascope.core.errors import ModelNotFound
from terascope.core.models import ModelVersion
from terascope.gateway.depends import Caller, UseServices
from terascope.gateway.services import Services
from terascope.protocol.admin import ModelCard, ModelCards, Name

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("")
async def list_models(use: UseServices, who: Caller) -> ModelCards:
    """Every model and alias that is served, whether it answers already or not."""
    served = use.fleet.served()
    mine = await _projects(use, who)
    there = [one for one in use.catalog.list() if one.served_as in served and (not one.owner or one.owner in mine)]
    cards = [_card(use, version) for version in there]
    aliases = [
        card.model_copy(update={"id": alias, "alias_of": version.public_name})
        for version, card in zip(there, cards, strict=True)
        for alias in use.catalog.aliases_of(version)
    ]
    return ModelCards(data=cards + aliases)


@router.get("/{model:path}")
async def show_model(model: Name, use: UseServices, who: Caller) -> ModelCard:
    """One model, by name, `name@version` or alias."""
    version = use.catalog.resolve(model)
    hidden = version.owner and version.owner not in await _projects(use, who)
    if hidden or version.served_as not in use.fleet.served():
        raise ModelNotFound(f"{model[:80]} is in the catalogue but not served here; GET /v1/models lists what is")
    return _card(use, version).model_copy(update={"id": model})


async def _projects(use: Services, who: Principal) -> frozenset[str]:
    """The projects whose own adapters are shown to `who`."""
    return frozenset(row.name for row in await use.access.projects.visible_to(who))


def _card(use: Services, version: ModelVersion) -> ModelCard:
    return ModelCard(
        id=version.name,
        created=int(version.created),
        owned_by=version.owner or "terascope",
        version=version.version,
        digest=version.digest,
        modes=sorted(use.fleet.modes(version.served_as)),
        context_length=use.fleet.context_length(version.served_as) or version.context_length,
        state=use.fleet.state(version.served_as),
        parent=version.parent or None,
    )

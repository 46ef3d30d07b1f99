"""`/v1/models`: what there is to ask."""

from fastapi import APIRouter

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
    there = [version for version in use.catalog.list() if version.public_name in served]
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
    if version.public_name not in use.fleet.served():
        raise ModelNotFound(f"{model[:80]} is in the catalogue but not served here; GET /v1/models lists what is")
    return _card(use, version).model_copy(update={"id": model})


def _card(use: Services, version: ModelVersion) -> ModelCard:
    return ModelCard(
        id=version.name,
        created=int(version.created),
        owned_by="terascope",
        version=version.version,
        digest=version.digest,
        modes=sorted(use.fleet.modes(version.public_name)),
        context_length=use.fleet.context_length(version.public_name) or version.context_length,
        state=use.fleet.state(version.public_name),
    )

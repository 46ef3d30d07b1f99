"""What FastAPI routes depend on: the services, and who asks."""

from typing import Annotated

from fastapi import Depends, Header, Request

from terascope.access.principal import Principal
from terascope.access.scopes import OPERATOR
from terascope.core.models import Mode
from terascope.gateway.services import Services


def services(request: Request) -> Services:
    """The services this gateway stands on."""
    found: Services = request.app.state.services
    return found


NO_NUL = r"^[^\x00]*$"
"""A text to look for, as JSON schemas show it: PostgreSQL knows none with NUL characters."""
UseServices = Annotated[Services, Depends(services)]


async def caller(use: UseServices, authorization: Annotated[str, Header(include_in_schema=False)] = "") -> Principal:
    """Whoever holds the key. Raises `NotAuthenticated`."""
    return await use.access.identify(authorization)


async def operator(who: Annotated[Principal, Depends(caller)]) -> Principal:
    """An operator. Raises `NotAllowed` for anyone else."""
    who.require(OPERATOR)
    return who


async def tuner(who: Annotated[Principal, Depends(caller)]) -> Principal:
    """Whoever may train. Raises `NotAllowed` for anyone else."""
    who.require(Mode.TUNE)
    return who


async def metrics_reader(use: UseServices, authorization: Annotated[str, Header(include_in_schema=False)] = "") -> None:
    """Whoever may read metrics, as `auth.metrics` says. Raises `NotAuthenticated` and `NotAllowed` for others."""
    if use.config.auth.metrics == "operator":
        (await use.access.identify(authorization)).require(OPERATOR)


Caller = Annotated[Principal, Depends(caller)]
Tuner = Annotated[Principal, Depends(tuner)]
Operator = Annotated[Principal, Depends(operator)]

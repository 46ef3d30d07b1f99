"""`/health`, `/ready`, `/metrics`: for whoever watches the gateway."""

from typing import Annotated

from fastapi import APIRouter, Header, Response
from prometheus_client import CONTENT_TYPE_LATEST

from terascope.access.scopes import OPERATOR
from terascope.gateway.depends import UseServices
from terascope.protocol.admin import Ready

router = APIRouter(tags=["health"])


@router.get("/health")
async def health() -> dict[str, str]:
    """The gateway's process answers."""
    return {"status": "ok"}


@router.get("/ready", responses={503: {"model": Ready, "description": "Some deployments do not answer yet."}})
async def ready(use: UseServices, response: Response) -> Ready:
    """Every deployment has a replica that answers."""
    states = use.states()
    if all(state == "ready" for state in states.values()):
        return Ready(status="ready", deployments=states)
    response.status_code = 503
    response.headers["retry-after"] = "1"
    return Ready(status="starting", deployments=states)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(use: UseServices, authorization: Annotated[str, Header(include_in_schema=False)] = "") -> Response:
    """Prometheus metrics of the gateway. No series names a person."""
    if use.config.auth.metrics == "operator":
        (await use.access.identify(authorization)).require(OPERATOR)
    return Response(use.metrics.text(), media_type=CONTENT_TYPE_LATEST)

"""`/health`, `/ready`, `/metrics`, `/metrics/engines`: for whoever watches the gateway."""

from fastapi import APIRouter, Depends, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from terascope.gateway.depends import UseServices, metrics_reader
from terascope.gateway.engine_metrics import engine_metrics
from terascope.protocol.admin import Ready

router = APIRouter(tags=["health"])


@router.get("/health")
async def health() -> dict[str, str]:
    """The gateway's process answers."""
    return {"status": "ok"}


@router.get("/ready", responses={503: {"model": Ready, "description": "Some deployments do not answer yet."}})
async def ready(use: UseServices, response: Response) -> Ready:
    """Every deployment has a replica that answers, or starts one at its first request."""
    states = use.states()
    if all(state in ("ready", "cold") for state in states.values()):
        return Ready(status="ready", deployments=states)
    response.status_code = 503
    response.headers["retry-after"] = "1"
    return Ready(status="starting", deployments=states)


@router.get("/metrics", response_class=PlainTextResponse, dependencies=[Depends(metrics_reader)])
async def metrics(use: UseServices) -> Response:
    """Prometheus metrics of the gateway. No series names a person."""
    return Response(use.metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/metrics/engines", response_class=PlainTextResponse, dependencies=[Depends(metrics_reader)])
async def metrics_of_engines(use: UseServices) -> Response:
    """Prometheus metrics of the engines, asked now; the labels `model` and `replica` say whose a series is."""
    return Response(await engine_metrics(use.fleet.ready()), media_type=CONTENT_TYPE_LATEST)

"""`/admin/v1/deployments`: what is served, for operators."""

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import PlainTextResponse, StreamingResponse

from terascope.fleet.deployments import Deployment
from terascope.gateway.depends import NO_NUL, Operator, UseServices
from terascope.gateway.services import Services
from terascope.protocol.deployments import (
    ChangeDeployment,
    CreateDeployment,
    DeploymentDetails,
    DeploymentEvent,
    DeploymentEvents,
    DeploymentLog,
    DeploymentName,
    DeploymentPreview,
    DeploymentPut,
    DeploymentSettings,
    DeploymentView,
    DeploymentViews,
    ReplicaView,
)
from terascope.store.replicas import ReplicaRow

router = APIRouter(prefix="/admin/v1", tags=["admin: deployments"])
_Rank = Annotated[int, Query(ge=0, lt=1 << 16, description="Of this node, where a replica has several.")]


@router.get("/deployments")
async def list_deployments(use: UseServices, who: Operator) -> DeploymentViews:
    """Every deployment, those of the configuration first."""
    return DeploymentViews(data=[deployment_view(use, one) for one in await use.deployments.all()])


@router.post("/deployments", status_code=201)
async def create_deployment(asked: CreateDeployment, use: UseServices, who: Operator) -> DeploymentView:
    """Serve a model: store a deployment, and begin to keep its replicas."""
    settings = DeploymentSettings(**asked.model_dump(exclude={"name"}))
    return deployment_view(use, await use.deployments.create(settings.config(asked.name)))


@router.post("/deployment-preview")  # not below /deployments: that would be a deployment of this name
async def preview_deployment(asked: CreateDeployment, use: UseServices, who: Operator) -> DeploymentPreview:
    """What would be started for a replica; nothing is stored or started."""
    settings = DeploymentSettings(**asked.model_dump(exclude={"name"}))
    shown = await use.deployments.preview(settings.config(asked.name))
    return DeploymentPreview(command=list(shown.command), variables=list(shown.variables), script=shown.script)


@router.get("/deployments/{name:path}/log")
async def show_log(
    name: str,
    use: UseServices,
    who: Operator,
    replica: Annotated[str, Query(pattern=NO_NUL, description="Empty: the newest.")] = "",
    lines: Annotated[int, Query(ge=1, le=10_000)] = 200,
    rank: _Rank = 0,
) -> DeploymentLog:
    """The last lines of a replica's log."""
    return DeploymentLog(text=await use.deployments.log(name, replica, lines, rank))


@router.get("/deployments/{name:path}/events")
async def list_events(
    name: str, use: UseServices, who: Operator, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> DeploymentEvents:
    """What happened to a deployment and its replicas, and why; newest first, also of one that was removed."""
    found = await use.deployments.events(name, limit)
    return DeploymentEvents(data=[DeploymentEvent(**asdict(one)) for one in found])


@router.get("/deployments/{name:path}/log/follow", response_class=PlainTextResponse)
async def follow_log(
    name: str,
    use: UseServices,
    who: Operator,
    replica: Annotated[str, Query(pattern=NO_NUL, description="Empty: the newest.")] = "",
    lines: Annotated[int, Query(ge=0, le=10_000)] = 200,
    rank: _Rank = 0,
) -> StreamingResponse:
    """The last lines of a replica's log, and what is added to it, until the client leaves."""
    pieces = await use.deployments.follow_log(name, replica, lines, rank)
    return StreamingResponse(pieces, media_type="text/plain; charset=utf-8")


@router.get("/deployments/{name:path}")
async def show_deployment(name: str, use: UseServices, who: Operator) -> DeploymentDetails:
    """One deployment, with its replicas."""
    view = deployment_view(use, await use.deployments.get(name))
    rows = await use.deployments.replicas(name)
    return DeploymentDetails(**view.model_dump(), running=[_replica(row) for row in rows])


@router.put("/deployments/{name}")
async def put_deployment(
    name: DeploymentName, asked: DeploymentSettings, use: UseServices, who: Operator
) -> DeploymentPut:
    """Make a deployment what is sent. Idempotent; replicas go on where only their number changes."""
    there = {one.config.name for one in await use.deployments.all()}
    made, changed = await use.deployments.put(asked.config(name))
    done = ("changed" if name in there else "created") if changed else "unchanged"
    return DeploymentPut(deployment=deployment_view(use, made), done=done)


@router.patch("/deployments/{name}")
async def change_deployment(
    name: DeploymentName, asked: ChangeDeployment, use: UseServices, who: Operator
) -> DeploymentView:
    """Keep another number of replicas, from one to another by the load, or none. Those over it finish their answers."""
    if asked.replicas is None and asked.min is None and asked.max is None:
        return deployment_view(use, await use.deployments.stop(name))
    return deployment_view(use, await use.deployments.scale(name, asked.replicas, least=asked.min, most=asked.max))


@router.delete("/deployments/{name}", status_code=204)
async def remove_deployment(name: DeploymentName, use: UseServices, who: Operator) -> Response:
    """Forget a deployment; its replicas finish what they are answering."""
    await use.deployments.remove(name)
    return Response(status_code=204)


def deployment_view(use: Services, one: Deployment) -> DeploymentView:
    """A deployment as it is wanted, and how it is."""
    config, bounds = one.config, one.config.bounds
    counted = use.fleet.count(config.name)
    failed = use.deployments.failed.get(config.name, "")
    state = use.preparing.get(config.name) or ("failed" if failed else counted.state)
    return DeploymentView(
        **{name: getattr(config, name) for name in ("name", "model", "engine", "site", "launcher")},
        replicas=counted.kept if bounds.elastic and not failed else bounds.rest,
        min=bounds.least,
        max=bounds.most,
        target=one.target.value,
        ready=counted.ready,
        state=state,
        message=failed or counted.message,
        declared=one.declared,
        created=one.created,
        changed=one.changed,
        settings={name: value for name, value in asdict(config).items() if name != "name"},
    )


def _replica(row: ReplicaRow) -> ReplicaView:
    values = {name: getattr(row, name) for name in ReplicaView.model_fields}
    return ReplicaView(**values | {"handle": dict(row.handle), "status": row.status.value})

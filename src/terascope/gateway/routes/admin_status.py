"""`/admin/v1/status`: what runs and how much it has to do, for operators."""

from fastapi import APIRouter

from terascope.core.states import Outcome
from terascope.fleet.replica import Replica
from terascope.gateway.depends import Operator, UseServices
from terascope.gateway.routes.admin_deployments import deployment_view
from terascope.gateway.services import Services
from terascope.protocol.status import DeploymentStanding, QueueStanding, ReplicaStanding, Status

router = APIRouter(prefix="/admin/v1/status", tags=["admin: status"])


@router.get("")
async def status(use: UseServices, who: Operator) -> Status:
    """Deployments, their replicas, and who waits, as they are now."""
    views = [deployment_view(use, one) for one in await use.deployments.all()]
    return Status(
        time=use.clock.now(),
        deployments=[
            DeploymentStanding(**one.model_dump(include=set(DeploymentStanding.model_fields))) for one in views
        ],
        replicas=[_replica(use, one) for one in use.fleet.replicas()],
        queues=[
            QueueStanding(model=model, qos=qos.value, waiting=count)
            for (model, qos), count in use.metrics.waiting().items()
            if count
        ],
    )


def _replica(use: Services, one: Replica) -> ReplicaStanding:
    row, counts = one.row, use.metrics.replicas.of(one.id)
    return ReplicaStanding(
        id=one.id,
        deployment=row.deployment,
        model=row.model,
        status=row.status.value,
        message=row.message,
        job=str(row.handle.get("job", "")),
        changed=row.changed,
        in_flight=one.in_flight,
        requests=counts.requests,
        failed=counts.outcomes[Outcome.FAILED.value],
        prompt_tokens=counts.prompt_tokens,
        completion_tokens=counts.completion_tokens,
    )

"""The wire of `/admin/v1/status`. Times are seconds since the epoch; counts are of replicas that are there."""

from pydantic import BaseModel, Field


class ReplicaStanding(BaseModel):
    """One replica, and what it has to do."""

    id: str
    deployment: str
    model: str
    status: str
    message: str
    job: str = Field(description="Its job of a batch system, empty where it is none.")
    changed: float
    in_flight: int
    requests: int = Field(description="Requests that ended, however.")
    failed: int = Field(description="Those of them that failed.")
    prompt_tokens: int
    completion_tokens: int


class DeploymentStanding(BaseModel):
    """One deployment: how many replicas it wants, and how many take requests."""

    name: str
    model: str
    engine: str
    site: str
    state: str
    message: str
    replicas: int
    ready: int


class QueueStanding(BaseModel):
    """Requests that wait for their turn on a model."""

    model: str
    qos: str
    waiting: int


class Status(BaseModel):
    """What runs, and how much it has to do, at `time`."""

    time: float
    deployments: list[DeploymentStanding]
    replicas: list[ReplicaStanding]
    queues: list[QueueStanding]

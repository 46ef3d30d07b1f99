"""The wire of `/admin/v1/deployments`. Times are seconds since the epoch."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from terascope.core.config import DeploymentConfig, LayoutConfig
from terascope.protocol.admin import Name, Strict

MOST_REPLICAS = 10_000
DeploymentName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
_Size = Annotated[int, Field(ge=1, le=1 << 20)]
_Count = Annotated[int, Field(ge=0, le=1 << 31)]
_Replicas = Annotated[int, Field(ge=0, le=MOST_REPLICAS)]
_DEFAULT = DeploymentConfig()


class Layout(Strict):
    """How a replica of vLLM is spread over devices."""

    tensor: _Size = 1
    pipeline: _Size = 1
    data: _Size = 1
    expert: bool = False
    nodes: _Size = 1


class DeploymentSettings(Strict):
    """What an entry of `deployments` in the configuration may say, but for its name; there is what each means."""

    model: Name
    engine: str = _DEFAULT.engine
    url: str = ""
    api_key_env: str = ""
    api_key_file: str = ""
    kind: str = ""
    served_name: str = ""
    launcher: str = _DEFAULT.launcher
    site: str = ""
    replicas: _Replicas = 1
    min: _Replicas | None = None
    max: _Replicas | None = None
    hot: _Replicas = 0
    idle_s: float = Field(default=_DEFAULT.idle_s, gt=0, le=1e9)
    qos: list[str] = _DEFAULT.qos
    max_in_flight: _Count = 0
    start_timeout_s: float = Field(default=_DEFAULT.start_timeout_s, gt=0)
    modes: list[str] = _DEFAULT.modes
    dtype: str = ""
    quantization: str = ""
    layout: Layout = Layout()
    device: str = ""
    threads: _Count = 0
    max_batch: _Count = 0
    context_length: _Count = 0
    environment: dict[str, str] = Field(default_factory=dict)
    options: dict[str, str] = Field(default_factory=dict)

    def config(self, name: str) -> DeploymentConfig:
        """Return it as the configuration tree has it."""
        return DeploymentConfig(name=name, **{**self.model_dump(), "layout": LayoutConfig(**self.layout.model_dump())})


class CreateDeployment(DeploymentSettings):
    """`POST /admin/v1/deployments`."""

    name: DeploymentName


class ChangeDeployment(Strict):
    """`PATCH /admin/v1/deployments/{name}`: how many replicas to keep; null keeps none, until it is given again.

    With `min` or `max` the number follows the load between them.
    """

    replicas: _Replicas | None
    min: _Replicas | None = None
    max: _Replicas | None = None


class ReplicaView(BaseModel):
    """One replica: running, or ended lately."""

    id: str
    status: str
    message: str
    launcher: str
    url: str
    handle: dict[str, str | int]
    restarts: int
    created: float
    changed: float


class DeploymentView(BaseModel):
    """A deployment as it is wanted, and how it is."""

    name: str
    model: str
    engine: str
    site: str
    launcher: str
    target: Literal["running", "stopped"]
    replicas: int = Field(description="How many are kept now, or wanted where their number is fixed.")
    min: int = Field(description="Fewest replicas.")
    max: int = Field(description="Most replicas; where it is more than `min`, the number follows the load.")
    ready: int = Field(description="How many take requests.")
    state: str
    message: str
    declared: bool = Field(description="It stands in the configuration of the gateway, and is changed there.")
    created: float
    changed: float
    settings: dict[str, Any]


class DeploymentViews(BaseModel):
    """All deployments, those of the configuration first."""

    data: list[DeploymentView]


class DeploymentDetails(DeploymentView):
    """A deployment with its replicas, oldest first."""

    running: list[ReplicaView]


class DeploymentPut(BaseModel):
    """What `PUT` has done."""

    deployment: DeploymentView
    done: Literal["created", "changed", "unchanged"]


class DeploymentPreview(BaseModel):
    """What would be started for one replica, and the script of its job where it is one."""

    command: list[str]
    variables: list[str] = Field(description="Names of variables that go with it; values may be secrets.")
    script: str


class DeploymentLog(BaseModel):
    """The last lines that a replica's program has printed."""

    text: str


class DeploymentEvent(BaseModel):
    """What happened to a deployment, or to the replica that is named."""

    time: float
    replica: str
    what: str = Field(description="The replica's new status; `created`, `changed` or `removed` for the deployment.")
    message: str


class DeploymentEvents(BaseModel):
    """Events, newest first."""

    data: list[DeploymentEvent]

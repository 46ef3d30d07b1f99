"""What is asked of a model: told by whoever lets requests wait, read by what decides how many replicas there are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from terascope.core.models import ModelVersion
from terascope.core.projects import Qos
from terascope.engines.contract import EngineInfo, Launch
from terascope.fleet.serving import TASK_ENDPOINTS
from terascope.protocol.request import Kind


@dataclass(frozen=True, slots=True)
class Waiting:
    """Requests of one kind and class that wait: how many places they take, since when the first (monotonic)."""

    kind: Kind
    qos: Qos
    places: int
    since: float


@dataclass(frozen=True, slots=True)
class Demand:
    """What waits for a model, how many of its slots are reserved, and how many places each of its replicas has."""

    waiting: tuple[Waiting, ...] = ()
    reserved: int = 0
    places: Mapping[str, int] = field(default_factory=dict)


_OF_TASKS = frozenset().union(*TASK_ENDPOINTS.values())
Demands = Callable[[ModelVersion], Demand]
"""Returns the demand for a model."""


def nothing(version: ModelVersion) -> Demand:
    """No demand."""
    return Demand()


def may(launch: Launch, info: EngineInfo | None, kind: Kind, qos: Qos) -> bool:
    """Whether a deployment is for requests of that kind and class.

    `info` is what its engine said last; one that has said nothing yet is given the benefit of the doubt.
    """
    endpoint, modes, needs = kind
    config = launch.deployment
    if not modes <= set(config.modes) or qos.value not in config.qos:
        return False
    if info is None:
        return endpoint not in _OF_TASKS or endpoint in TASK_ENDPOINTS[launch.version.task]
    return endpoint in info.capabilities.endpoints and needs <= info.capabilities.features

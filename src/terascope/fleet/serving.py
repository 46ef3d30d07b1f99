"""How models and deployments are served: the best of their replicas counts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from terascope.core.models import Mode, Task
from terascope.engines.contract import EngineInfo, Launch
from terascope.fleet.deployed import Deployed
from terascope.fleet.slot import ServingState, Slot
from terascope.fleet.starts import Starts

MODE_ENDPOINTS = {
    Mode.QUERY.value: frozenset({"chat/completions", "completions"}),
    Mode.EMBED.value: frozenset({"embeddings"}),
    Mode.INTERNALS.value: frozenset({"traces"}),
}
"""What an engine must have one of to be used in a mode."""
TASK_ENDPOINTS = {
    Task.GENERATE: frozenset({"chat/completions", "completions", "embeddings"}),
    Task.EMBED: frozenset({"embeddings"}),
}
"""What models of a task have, as far as that is known before their engine has said so."""


@dataclass(frozen=True, slots=True)
class Serving:
    """How a model is served: the state, and what there is to say about it."""

    state: ServingState
    message: str = ""


@dataclass(frozen=True, slots=True)
class Counted:
    """How a deployment is served: how many replicas take requests, how many there are, and its state."""

    ready: int
    kept: int
    state: ServingState
    message: str


def best(slots: Iterable[Slot], *, cold: bool) -> Serving:
    """How `slots` serve together; `cold`: a request would start a replica."""
    order = list(ServingState)
    found = min(slots, key=lambda slot: order.index(slot.state), default=None)
    if cold and (found is None or order.index(found.state) > order.index(ServingState.COLD)):
        return Serving(ServingState.COLD, "no replica runs; the first request starts one")
    return Serving(found.state, found.message) if found else Serving(ServingState.STOPPED)


def usable_modes(launches: Sequence[Launch], infos: Iterable[EngineInfo | None]) -> frozenset[str]:
    """What a model may be used for, as its deployments allow, and can be, as its ready replicas say.

    While none is ready, what models of its task have stands for what they say.
    """
    said = [info.capabilities.endpoints for info in infos if info]
    offered = frozenset().union(*(said or [TASK_ENDPOINTS[one.version.task] for one in launches]))
    allowed = {mode for one in launches for mode in one.deployment.modes}
    return frozenset(mode for mode in allowed if MODE_ENDPOINTS.get(mode, offered) & offered)


def soonest_s(starts: Starts, slots: Iterable[Slot], deployed: Sequence[Deployed]) -> float | None:
    """In about how many seconds one of `slots` will be ready; without any, one that is begun now."""
    hopeful = [slot for slot in slots if slot.hopeful]
    known = [slot.coming_s(starts) for slot in hopeful] if hopeful else [starts.left_s(one) for one in deployed]
    return min((one for one in known if one is not None), default=None)

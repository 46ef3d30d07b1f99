"""The run record: what every room knows of one request."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from terascope.core.states import Outcome


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One request, as it is remembered. Nothing of prompt or answer is in it.

    Times: `started` in seconds since the epoch; `queued_s` until a replica was chosen, `first_s` until the
    first byte of the answer, `total_s` until its end, all in seconds from `started`; `first_s` is 0 when there
    was no answer. `parameters` are the settings that the client sent and, under `applied`, those that the
    engine says it used. `cached_tokens` are those of the prompt's tokens that the engine says it had computed
    before. `attempts` counts the replicas it was sent to. `cost` is what `project` is charged, in micro service units.
    """

    id: str
    started: float
    endpoint: str
    key_id: str = ""
    model: str = ""
    digest: str = ""
    replica: str = ""
    engine: str = ""
    parameters: Mapping[str, object] = field(default_factory=dict)
    stream: bool = False
    outcome: Outcome = Outcome.FAILED
    status: int = 0
    error: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    queued_s: float = 0.0
    first_s: float = 0.0
    total_s: float = 0.0
    attempts: int = 0
    project: str = ""
    user_id: str = ""
    cost: int = 0

"""The fourth hop: wait for one's turn on a replica that can do what is asked."""

from collections import OrderedDict
from dataclasses import replace

from terascope.access.estimate import Estimate
from terascope.access.principal import Grant
from terascope.core.clock import Clock
from terascope.core.config import SchedulerConfig, ServerConfig
from terascope.core.models import ModelVersion
from terascope.core.projects import Qos
from terascope.fleet.demand import Demand
from terascope.fleet.fleet import Fleet
from terascope.fleet.replica import Replica
from terascope.inference.line import ModelLine, Reserved
from terascope.inference.place import Place
from terascope.internals.limits import Cost
from terascope.protocol.request import ModelRequest
from terascope.scheduler.queue import ModelQueue
from terascope.scheduler.usage import Usage


class Turns:
    """Gives requests their turn on replicas; the waiting is in `line`, the decision in `scheduler`."""

    def __init__(
        self,
        fleet: Fleet,
        config: ServerConfig,
        clock: Clock,
        usage: Usage,
        scheduler: SchedulerConfig | None = None,
        reserved: Reserved = lambda version, later_s: {},
        *,
        look_s: float = 1.0,
    ) -> None:
        """`look_s`: how often the end of reservations is looked for while requests wait, in seconds."""
        self._wait_timeout_s = config.wait_timeout_s
        self._fleet = fleet
        self._clock = clock
        self._usage = usage
        self._reserved = reserved
        self._look_s = look_s
        self._floors = {Qos(name): part for name, part in (scheduler or SchedulerConfig()).floors.items()}
        self._lines: OrderedDict[str, ModelLine] = OrderedDict()
        fleet.scaling.demands = self.demand

    def place(
        self,
        grant: Grant,
        version: ModelVersion,
        request: ModelRequest,
        cost: Cost | None = None,
        estimate: Estimate | None = None,
    ) -> Place:
        """A place for `request`, which is not in line yet; `cost` is what it takes, where that is known.

        `estimate` is the most that it may take, where somebody has worked that out.
        """
        return Place(self._lines.get(version.public_name) or self._new_line(version), grant, request, cost, estimate)

    def demand(self, version: ModelVersion) -> Demand:
        """What is asked of a model: what waits for it, and what is reserved now or when a replica could be ready."""
        line = self._lines.get(version.public_name)
        ready_in_s = self._fleet.coming_s(version.public_name) or 0.0
        reserved = (sum(self._reserved(version, later_s).values()) for later_s in (0.0, ready_in_s))
        return replace(line.demand() if line else Demand(), reserved=max(reserved))

    def waiting(self) -> dict[tuple[str, Qos], int]:
        """How many requests wait for their turn, by model and QOS; of every model that was asked."""
        return {(name, qos): count for name, line in self._lines.items() for qos, count in line.queue.waiting().items()}

    def lost(self, replica: Replica, *, again: bool = False) -> None:
        """The replica's engine did not answer: have it looked at. `again`: a request that it has lost before."""
        if not again:
            replica.breaker.failed(self._clock.monotonic())
        self._fleet.report_lost(replica)

    def answered(self, replica: Replica) -> None:
        """The replica has answered a request to its end."""
        if replica.breaker.lost:
            replica.breaker.succeeded()

    def _new_line(self, version: ModelVersion) -> ModelLine:
        line = self._lines[version.public_name] = ModelLine(
            version,
            self._fleet,
            ModelQueue(self._floors, self._usage),
            self._usage,
            self._reserved,
            self._clock,
            self._look_s,
            self._wait_timeout_s,
        )
        self._usage.before_reading.append(line.charge)
        return line

"""The fourth hop: wait for one's turn on a replica that can do what is asked."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace

from terascope.access.estimate import Estimate, is_free
from terascope.access.principal import Grant
from terascope.core.clock import Clock
from terascope.core.config import SchedulerConfig, ServerConfig
from terascope.core.models import ModelVersion
from terascope.core.projects import Qos
from terascope.fleet.demand import Demand
from terascope.fleet.fleet import Fleet
from terascope.fleet.replica import Replica
from terascope.inference.line import ModelLine, Waiter
from terascope.internals.limits import Cost
from terascope.protocol.request import ModelRequest
from terascope.scheduler.queue import ModelQueue
from terascope.scheduler.ticket import Ticket
from terascope.scheduler.usage import Usage

Reserved = Callable[[ModelVersion, float], Mapping[str, int]]
"""How many slots of a model are reserved at a time (seconds since the epoch), by project."""


class Turn:
    """The turn of one request, as `async with`; what `Place.turn` says."""

    def __init__(self, line: ModelLine, waiter: Waiter, wait_timeout_s: float) -> None:
        self._line = line
        self._waiter = waiter
        self._wait_timeout_s = wait_timeout_s
        self._taken: Replica | None = None

    async def __aenter__(self) -> Replica:
        if is_free(self._waiter.request) and (able := self._line.any_able(self._waiter)):
            return able
        self._taken = await self._line.take(self._waiter, self._wait_timeout_s)
        return self._taken

    async def __aexit__(self, *raised: object) -> None:
        if self._taken is not None:
            self._line.give_back(self._waiter, self._taken)


class Place:
    """One request's place in line, and on the replica whose turn it got."""

    def __init__(self, line: ModelLine, ticket: Ticket, request: ModelRequest, turns: "Turns") -> None:
        self._line = line
        self._ticket = ticket
        self._request = request
        self._turns = turns

    def turn(self) -> Turn:
        """A replica that can serve the request, counted as busy with it until the block ends.

        Waits for the turn, and while replicas are on their way. Raises `ModelUnavailable` when none is, or after
        `wait_timeout_s`, and `UnsupportedFeature` when replicas are ready but none can do what is asked. May be
        asked for again when a replica was lost.
        """
        return Turn(self._line, Waiter(self._ticket, self._request), self._turns.wait_timeout_s)

    def wait_s(self) -> float | None:
        """About how many seconds the turn is away; None when that is not known or the turn has come."""
        return self._line.wait_s(self._ticket)

    def first_byte(self, replica: Replica, seconds: float) -> None:
        """The first byte of the answer came so long after the engine was asked."""
        self._line.first_byte(replica, seconds)

    def cost(self, cost: int) -> None:
        """The answer has cost so much by now, in micro service units; more than was expected."""
        if cost > self._ticket.charged:
            self._line.queue.charge(self._ticket, cost)

    def settle(self, cost: int, tokens: int) -> None:
        """The request is over: so much it has cost, and so many tokens its answer had."""
        self._line.queue.charge(self._ticket, cost)
        self._line.pace.served(cost)
        if tokens:
            self._line.lengths.seen(self._ticket.project, tokens)


class Turns:
    """Gives requests their turn on replicas; the waiting is in `line`, the decision in `scheduler`."""

    def __init__(
        self,
        fleet: Fleet,
        config: ServerConfig,
        clock: Clock,
        usage: Usage,
        scheduler: SchedulerConfig | None = None,
        reserved: Reserved = lambda version, now: {},
        *,
        look_s: float = 1.0,
    ) -> None:
        """`look_s`: how often the end of reservations is looked for while requests wait, in seconds."""
        self.wait_timeout_s = config.wait_timeout_s
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
        line = self._line(version)
        self._usage.set_shares(grant.project, grant.shares)
        expected = cost.micro(grant.price) if cost else 0
        if not expected:
            estimate = estimate or Estimate.of(request, version)
            answer = line.lengths.expected(grant.project, estimate.output)
            expected = max(1, grant.price.cost(estimate.probable, answer))  # so that every request counts
        user = grant.principal.user_id
        return Place(line, Ticket(grant.project, user, grant.qos, expected, request.kind), request, self)

    def demand(self, version: ModelVersion) -> Demand:
        """What is asked of a model: what waits for it, and what is reserved now or when a replica could be ready."""
        line = self._lines.get(version.public_name)
        ready_in_s = self._fleet.coming_s(version.public_name) or 0.0
        reserved = (sum(self._reserved(version, self._clock.now() + later).values()) for later in (0.0, ready_in_s))
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
        replica.breaker.succeeded()

    def _line(self, version: ModelVersion) -> ModelLine:
        found = self._lines.get(version.public_name)
        if found is None:
            queue = ModelQueue(self._floors, self._usage)
            found = self._lines[version.public_name] = ModelLine(
                version,
                self._fleet,
                queue,
                lambda: self._reserved(version, self._clock.now()),
                self._clock,
                self._look_s,
            )
        return found

"""A request's place in the line of its model."""

import asyncio
from functools import cached_property
from typing import TYPE_CHECKING

from terascope.access.estimate import Estimate, is_free
from terascope.access.principal import Grant
from terascope.fleet.replica import Replica
from terascope.internals.limits import Cost
from terascope.protocol.request import ModelRequest
from terascope.scheduler.ticket import Ticket

if TYPE_CHECKING:
    from terascope.inference.line import ModelLine


class Place:
    """One request's place in line, and on the replica whose turn it got."""

    replica: asyncio.Future[Replica]
    """What is waited for; who need not wait has none."""
    since = 0.0
    told = False
    """Whether the queue knows of it; it need not while nobody waits."""
    so_far = 0
    """What the answer has cost by now, in micro service units."""
    taken: Replica | None = None

    def __init__(
        self, line: "ModelLine", grant: Grant, request: ModelRequest, cost: Cost | None, estimate: Estimate | None
    ) -> None:
        self.grant = grant
        self.request = request
        self.kind = request.kind
        self.slots = request.choices
        self._cost = cost
        self._estimate = estimate
        self._line = line

    @cached_property
    def ticket(self) -> Ticket:
        """What the queue knows it by, with what it will probably cost."""
        grant = self.grant
        return Ticket(grant.project, grant.principal.user_id, grant.qos, self._expected(), self.kind)

    def _expected(self) -> int:
        if self._cost and (exact := self._cost.micro(self.grant.price)):
            return exact
        estimate = self._estimate or Estimate.of(self.request, self._line.version)
        answer = self._line.lengths.expected(self.grant.project, estimate.output)
        return max(1, self.grant.price.cost(estimate.probable, answer))  # so that every request counts

    def turn(self) -> "Place":
        """A replica that can serve the request, as `async with`, counted as busy with it until the block ends.

        Waits for the turn, and while replicas are on their way. Raises `ModelUnavailable` when none is, or after
        `server.wait_timeout_s`, and `UnsupportedFeature` when replicas are ready but none can do what is asked. May be
        asked for again when a replica was lost.
        """
        return self

    async def __aenter__(self) -> Replica:
        line = self._line
        if is_free(self.request) and (able := line.any_able(self)):
            return able
        taken = self.taken = line.at_once(self) or await line.take(self)
        return taken

    async def __aexit__(self, *raised: object) -> None:
        if self.taken is not None:
            self._line.give_back(self, self.taken)

    def wait_s(self) -> float | None:
        """About how many seconds the turn is away; None when that is not known or the turn has come."""
        return self._line.wait_s(self.ticket) if self.told else None

    def first_byte(self, replica: Replica, seconds: float) -> None:
        """The first byte of the answer came so long after the engine was asked."""
        self._line.first_byte(replica, seconds)

    def cost(self, cost: int) -> None:
        """The answer has cost so much by now, in micro service units; more than was expected."""
        self.so_far = cost
        if self.told and cost > self.ticket.charged and cost > self.ticket.expected:
            self._line.queue.charge(self.ticket, cost)

    def settle(self, cost: int, tokens: int) -> None:
        """The request is over: so much it has cost, and so many tokens its answer had."""
        if self.told:
            self._line.settle(self, cost, tokens)
        else:
            self._line.put_off(self, cost, tokens)

"""The line of one model: its queue, and who waits in it. What `scheduler` decides is done here."""

import asyncio
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property

from terascope.core.clock import Clock
from terascope.core.errors import ModelUnavailable, ServiceError, UnsupportedFeature
from terascope.core.models import ModelVersion
from terascope.core.projects import Qos
from terascope.fleet.demand import Demand, Waiting, may
from terascope.fleet.fleet import Fleet
from terascope.fleet.replica import Replica
from terascope.protocol.request import Kind, ModelRequest
from terascope.scheduler.choice import least_loaded
from terascope.scheduler.inflight import InFlightLimit
from terascope.scheduler.pace import AnswerLength, Pace
from terascope.scheduler.queue import ModelQueue
from terascope.scheduler.ticket import Ticket

Reserved = Callable[[], Mapping[str, int]]
"""How many slots of the model are reserved now, by project."""
_KINDS = 1000  # kinds of requests whose replicas are remembered


class Waiter:
    """One request in line, and the replica it gets."""

    def __init__(self, ticket: Ticket, request: ModelRequest) -> None:
        self.ticket = ticket
        self.request = request
        self.kind = request.kind
        self.places = request.choices
        self.since = 0.0

    @cached_property
    def replica(self) -> asyncio.Future[Replica]:
        """What is waited for; who need not wait needs none."""
        return asyncio.get_running_loop().create_future()


class ModelLine:
    """Gives the requests for one model their turns on its replicas."""

    def __init__(
        self, version: ModelVersion, fleet: Fleet, queue: ModelQueue, reserved: Reserved, clock: Clock, look_s: float
    ) -> None:
        """While anybody waits, what is reserved is looked at every `look_s` seconds, since nothing tells of its end."""
        self.version = version
        self.queue = queue
        self.pace = Pace()
        self.lengths = AnswerLength()
        self._fleet = fleet
        self._reserved = reserved
        self._look_s = look_s
        self._clock = clock
        self._waiters: dict[Ticket, Waiter] = {}
        self._able_of: tuple[Replica, ...] = ()
        self._able_for: dict[tuple[Kind, Qos], list[Replica]] = {}
        self._limits: dict[str, InFlightLimit] = {}
        self._watching: asyncio.Task[None] | None = None

    async def take(self, waiter: Waiter, timeout_s: float) -> Replica:
        """Return a replica, counted as busy with the request until `give_back`, when its turn comes.

        Raises `UnsupportedFeature` when replicas are ready but none can do what is asked, `ModelUnavailable` when
        none is or will be ready, or when the turn does not come within `timeout_s`. On raise and on cancellation the
        request is in line no more.
        """
        if not self.queue and not self._reserved() and (roomy := self._roomy(waiter)):
            self.queue.start_at_once(waiter.ticket)
            return self._begin(waiter, roomy)
        self._check(waiter)
        waiter.since = self._clock.monotonic()
        self._waiters[waiter.ticket] = waiter
        self.queue.add(waiter.ticket)
        self._serve()
        try:
            if not waiter.replica.done():
                await self._wait(waiter, timeout_s)
            return waiter.replica.result()
        except BaseException:
            self._leave(waiter)
            raise

    def give_back(self, waiter: Waiter, replica: Replica) -> None:
        """The request needs its replica no more."""
        replica.in_flight -= waiter.places
        self.queue.end(waiter.ticket)
        self.pace.ended(self._clock.monotonic())
        self._serve()

    def first_byte(self, replica: Replica, seconds: float) -> None:
        """The first byte of an answer came so long after it was asked for."""
        self._limit(replica).first_byte(seconds, replica.in_flight)

    def wait_s(self, ticket: Ticket) -> float | None:
        """About how long `ticket` has to wait; None when that cannot be said, or it does not wait.

        While no replica is ready that is how long the start of one still takes, and then its turn.
        """
        if ticket not in self.queue:
            return None
        served_s = self.pace.seconds(self.queue.before(ticket) + ticket.expected)
        if self._ready():
            return served_s
        coming_s = self._fleet.coming_s(self.version.public_name)
        return None if coming_s is None else coming_s + (served_s or 0.0)

    def demand(self) -> Demand:
        """What waits here, and how many places each replica has, as far as that is known."""
        kinds: dict[tuple[Kind, Qos], list[Waiter]] = {}
        for waiter in self._waiters.values():
            kinds.setdefault((waiter.kind, waiter.ticket.qos), []).append(waiter)
        waiting = (Waiting(*kind, sum(one.places for one in of), of[0].since) for kind, of in kinds.items())
        places = {one.id: limit.value for one in self._ready() if (limit := self._limit(one)).known}
        return Demand(tuple(waiting), places=places)

    def any_able(self, waiter: Waiter) -> Replica | None:
        """A replica for what needs no turn, as it costs next to nothing."""
        able = self._able(waiter)
        return able[least_loaded([one.in_flight for one in able])] if able else None

    async def _wait(self, waiter: Waiter, timeout_s: float) -> None:
        if not self._able(waiter):
            self._fleet.scaling.stir()  # perhaps none is kept while nobody asks
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.wait([waiter.replica])
        except TimeoutError:
            raise self._late(timeout_s) from None

    def _late(self, timeout_s: float) -> ModelUnavailable:
        name = self.version.public_name
        if self._ready():
            return ModelUnavailable(f"{name} had no place for this request in {timeout_s:g} s", retry_after=60)
        later = math.ceil(self._fleet.coming_s(name) or 60)
        return ModelUnavailable(f"no replica of {name} became ready in {timeout_s:g} s", retry_after=later)

    def _leave(self, waiter: Waiter) -> None:
        self._waiters.pop(waiter.ticket, None)
        if self.queue.remove(waiter.ticket):
            waiter.replica.cancel()
        elif waiter.replica.done() and not waiter.replica.cancelled() and not waiter.replica.exception():
            self.give_back(waiter, waiter.replica.result())  # the turn came in the moment the client left

    async def _watch(self) -> None:
        """While anybody waits: see what changes in the fleet, and with time."""
        while self._waiters:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._fleet.wait_for_change(self.version.public_name), self._look_s)
            for waiter in list(self._waiters.values()):
                try:
                    self._check(waiter)
                except ServiceError as error:
                    self._refuse(waiter, error)
            self._serve()
        self._watching = None

    def _refuse(self, waiter: Waiter, error: ServiceError) -> None:
        del self._waiters[waiter.ticket]
        self.queue.remove(waiter.ticket)
        waiter.replica.set_exception(error)

    def _check(self, waiter: Waiter) -> None:
        """Raise when no replica that can do what `waiter` asks is ready, or on its way."""
        if self._able(waiter):
            return
        waiting = Waiting(waiter.kind, waiter.ticket.qos, waiter.places, waiter.since)
        if not self._fleet.check_hope(self.version.public_name, waiting):
            raise UnsupportedFeature(self._lacking(waiter))

    def _lacking(self, waiter: Waiter) -> str:
        """What no deployment or engine of the model does of what is asked, for the user."""
        name, request, qos = self.version.public_name, waiter.request, waiter.ticket.qos
        meant = [one for one in self._fleet.deployments_for(name) if request.modes <= set(one.modes)]
        if not meant:
            modes = " and ".join(sorted(request.modes))
            return f"{name} is not there for {modes}; GET /v1/models lists what each model is for"
        if not any(qos.value in one.qos for one in meant):
            return f"{name} takes no requests of QOS {qos.value}; name another in X-Terascope-QOS"
        names = {one.name for one in meant}
        ready = [one for one in self._ready() if one.row.deployment in names]
        lacks = [one.lacks(request.endpoint, request.needs()) for one in ready]
        lacking = min(lacks, key=len, default=frozenset({request.endpoint}))
        return f"{name} cannot do {', '.join(sorted(lacking))} on the engines that serve it"

    def _serve(self) -> None:
        """Give turns for as long as there are places."""
        while self.queue:
            free = {qos: sum(self._room(one, qos) for one in self._ready()) for qos in self.queue.classes()}
            ticket = self.queue.next(self._fits, free, self._reserved())
            if ticket is None:
                return
            waiter = self._waiters.pop(ticket)
            waiter.replica.set_result(self._begin(waiter, self._roomy(waiter)))

    def _begin(self, waiter: Waiter, roomy: list[Replica]) -> Replica:
        replica = roomy[0] if len(roomy) == 1 else roomy[least_loaded([one.in_flight for one in roomy])]
        replica.in_flight += waiter.places
        self.pace.began(self._clock.monotonic())
        return replica

    def _fits(self, ticket: Ticket) -> bool:
        return any(self._room(one, ticket.qos) for one in self._trusted(self._waiters[ticket]))

    def _roomy(self, waiter: Waiter) -> list[Replica]:
        return [one for one in self._trusted(waiter) if self._room(one, waiter.ticket.qos)]

    def _room(self, replica: Replica, qos: Qos) -> int:
        return self._limit(replica).room(replica.in_flight, qos)

    def _limit(self, replica: Replica) -> InFlightLimit:
        found = self._limits.get(replica.id)
        if found is None:
            gone = self._limits.keys() - {one.id for one in self._ready()}
            for old in gone:
                del self._limits[old]
            found = self._limits[replica.id] = _limit(replica)
        return found

    def _ready(self) -> tuple[Replica, ...]:
        return self._fleet.replicas_for(self.version.public_name)

    def _trusted(self, waiter: Waiter) -> list[Replica]:
        """The able ones that did not lose one request after the other of late, and those that are to be tried again.

        Where all of them did, each error is told at once, and nobody waits: then it is all of them.
        """
        able = self._able(waiter)
        if len(able) < 2:
            return able
        closed = [one for one in able if one.breaker.closed]
        if not closed or len(closed) == len(able):
            return able
        now = self._clock.monotonic()
        return [one for one in able if one.breaker.admits(now, one.in_flight)]

    def _able(self, waiter: Waiter) -> list[Replica]:
        """The ready replicas that can do what is asked; remembered for as long as they are the same."""
        ready = self._ready()
        if self._able_of is not ready:
            self._able_of, self._able_for = ready, {}
        kind = (waiter.kind, waiter.ticket.qos)
        found = self._able_for.get(kind)
        if found is None:
            found = [one for one in ready if may(one.launch, one.info, *kind)]
            if len(self._able_for) < _KINDS:
                self._able_for[kind] = found
        return found


def _limit(replica: Replica) -> InFlightLimit:
    slots, extra = (replica.info.slots, replica.info.extra) if replica.info else (0, 0)
    return InFlightLimit(slots, extra, most=replica.launch.deployment.max_in_flight)

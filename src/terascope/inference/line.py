"""The line of one model: its queue, and who waits in it. What `scheduler` decides is done here."""

import asyncio
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from terascope.core.clock import Clock
from terascope.core.errors import ModelUnavailable, ServiceError, UnsupportedFeature
from terascope.core.models import ModelVersion
from terascope.core.projects import Qos
from terascope.fleet.demand import Demand, Waiting, may
from terascope.fleet.fleet import Fleet
from terascope.fleet.replica import Replica
from terascope.inference.place import Place
from terascope.protocol.request import Kind
from terascope.scheduler.choice import least_loaded
from terascope.scheduler.inflight import InFlightLimit
from terascope.scheduler.pace import AnswerLength, Pace
from terascope.scheduler.queue import ModelQueue
from terascope.scheduler.ticket import Ticket
from terascope.scheduler.usage import Usage

Reserved = Callable[[ModelVersion, float], Mapping[str, int]]
"""How many slots of a model are reserved so many seconds from now, by project."""
_KINDS = 1000  # kinds of requests whose replicas are remembered
_PUT_OFF = 256  # requests of a project that were over before anybody waited, and are not charged for their turns yet


@dataclass(slots=True)
class _Over:
    """Requests of one project and QOS that are over and not charged for their turns yet."""

    shares: int = 1
    cost: int = 0
    requests: int = 0
    tokens: int = 0
    answers: int = 0


class ModelLine:
    """Gives the requests for one model their turns on its replicas.

    A request that comes while nobody waits gets its place at once, and the queue does not know of it until somebody
    waits or many are over: what it cost counts for the turns of later ones alone.
    """

    def __init__(
        self,
        version: ModelVersion,
        fleet: Fleet,
        queue: ModelQueue,
        usage: Usage,
        reserved: Reserved,
        clock: Clock,
        look_s: float,
        wait_timeout_s: float,
    ) -> None:
        """While anybody waits, what is reserved is looked at every `look_s` seconds, since nothing tells of its end."""
        self.version = version
        self.queue = queue
        self.pace = Pace()
        self.lengths = AnswerLength()
        self._fleet = fleet
        self._usage = usage
        self._reserved = reserved
        self._look_s = look_s
        self._wait_timeout_s = wait_timeout_s
        self._clock = clock
        self._waiters: dict[Ticket, Place] = {}
        self._alone: dict[Place, None] = {}  # that got their places at once and are not over; the queue knows none
        self._over: dict[tuple[str, Qos], _Over] = {}  # those that were in it
        self._busy = 0  # requests that have a replica
        self._able_of: tuple[Replica, ...] = ()
        self._able_for: dict[tuple[Kind, Qos], list[Replica]] = {}
        self._limits: dict[Replica, InFlightLimit] = {}
        self._watching: asyncio.Task[None] | None = None

    def at_once(self, place: Place) -> Replica | None:
        """A replica, counted as busy with the request until `give_back`; None when it must wait for its turn."""
        if self.queue.size or self._reserved(self.version, 0.0):
            return None
        able = self._able(place)
        if len(able) > 1:
            able = self._roomy(place)
        if not able:
            return None
        replica = able[0] if len(able) == 1 else _least_loaded(able)
        if not self._limit(replica).room(replica.in_flight, place.grant.qos):
            return None
        if place.told:  # it has lost its first replica
            self.queue.begin(place.ticket)
        else:
            self._alone[place] = None
        return self._begin(place, replica)

    async def take(self, place: Place) -> Replica:
        """Return a replica as `at_once` does, when the request's turn comes.

        Raises `UnsupportedFeature` when replicas are ready but none can do what is asked, `ModelUnavailable` when
        none is or will be ready, or when the turn does not come within `wait_timeout_s`. On raise and on cancellation
        the request is in line no more.
        """
        self._check(place)
        self.tell()
        place.since = self._clock.monotonic()
        place.replica = asyncio.get_running_loop().create_future()
        place.told = True
        self._usage.set_shares(place.grant.project, place.grant.shares)
        self._waiters[place.ticket] = place
        self.queue.add(place.ticket)
        self._serve()
        try:
            if not place.replica.done():
                await self._wait(place)
            return place.replica.result()
        except BaseException:
            self._leave(place)
            raise

    def give_back(self, place: Place, replica: Replica) -> None:
        """The request needs its replica no more."""
        place.taken = None
        replica.free(place.slots)
        self._busy -= 1
        if not self._busy:
            self.pace.ended(self._clock.monotonic())
        if place.told:
            self.queue.end(place.ticket)
        if self.queue.size:
            self._serve()

    def settle(self, place: Place, cost: int, tokens: int) -> None:
        """The request is over: it cost so much, in micro service units, and its answer had so many tokens."""
        self.queue.charge(place.ticket, cost)
        self._served(cost)
        if tokens:
            self.lengths.seen(place.grant.project, tokens)

    def put_off(self, place: Place, cost: int, tokens: int) -> None:
        """As `settle`, for one that the queue does not know of."""
        self._alone.pop(place, None)
        grant = place.grant
        over = self._over.get((grant.project, grant.qos))
        if over is None:
            over = self._over[grant.project, grant.qos] = _Over()
        over.shares = grant.shares
        over.cost += cost
        over.requests += 1
        if tokens:
            over.tokens += tokens
            over.answers += 1
        if over.requests >= _PUT_OFF:
            self.charge()

    def charge(self) -> None:
        """Charge for their turns those that were over before anybody waited."""
        all_over, self._over = self._over, {}
        for (project, qos), over in all_over.items():
            self._usage.set_shares(project, over.shares)
            self.queue.ran_alone(project, qos, over.cost)
            if over.answers:
                self.lengths.seen(project, over.tokens / over.answers, over.answers)
        self._served(sum(over.cost for over in all_over.values()))

    def tell(self) -> None:
        """Somebody is to wait: have the queue know of all that got their places at once."""
        self.charge()
        alone, self._alone = self._alone, {}
        for place in alone:
            place.told = True
            self._usage.set_shares(place.grant.project, place.grant.shares)
            self.queue.runs_alone(place.ticket, max(place.so_far, place.ticket.expected))
            if place.taken is not None:
                self.queue.begin(place.ticket)

    def _served(self, cost: int) -> None:
        self.pace.passed(self._clock.monotonic())
        self.pace.served(cost)

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
        kinds: dict[tuple[Kind, Qos], list[Place]] = {}
        for place in self._waiters.values():
            kinds.setdefault((place.kind, place.grant.qos), []).append(place)
        waiting = (Waiting(*kind, sum(one.slots for one in of), of[0].since) for kind, of in kinds.items())
        places = {one.id: limit.value for one in self._ready() if (limit := self._limit(one)).known}
        return Demand(tuple(waiting), places=places)

    def any_able(self, place: Place) -> Replica | None:
        """A replica for what needs no turn, as it costs next to nothing."""
        able = self._able(place)
        return _least_loaded(able) if able else None

    async def _wait(self, place: Place) -> None:
        if not self._able(place):
            self._fleet.scaling.stir()  # perhaps none is kept while nobody asks
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())
        try:
            async with asyncio.timeout(self._wait_timeout_s):
                await asyncio.wait([place.replica])
        except TimeoutError:
            raise self._late() from None

    def _late(self) -> ModelUnavailable:
        name, waited = self.version.public_name, f"{self._wait_timeout_s:g} s"
        if self._ready():
            return ModelUnavailable(f"{name} had no place for this request in {waited}", retry_after=60)
        later = math.ceil(self._fleet.coming_s(name) or 60)
        return ModelUnavailable(f"no replica of {name} became ready in {waited}", retry_after=later)

    def _leave(self, place: Place) -> None:
        self._waiters.pop(place.ticket, None)
        if self.queue.remove(place.ticket):
            place.replica.cancel()
        elif place.replica.done() and not place.replica.cancelled() and not place.replica.exception():
            self.give_back(place, place.replica.result())  # the turn came in the moment the client left

    async def _watch(self) -> None:
        """While anybody waits: see what changes in the fleet, and with time."""
        while self._waiters:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._fleet.wait_for_change(self.version.public_name), self._look_s)
            for place in list(self._waiters.values()):
                try:
                    self._check(place)
                except ServiceError as error:
                    self._refuse(place, error)
            self._serve()
        self._watching = None

    def _refuse(self, place: Place, error: ServiceError) -> None:
        del self._waiters[place.ticket]
        self.queue.remove(place.ticket)
        place.replica.set_exception(error)

    def _check(self, place: Place) -> None:
        """Raise when no replica that can do what `place` asks is ready, or on its way."""
        if self._able(place):
            return
        waiting = Waiting(place.kind, place.grant.qos, place.slots, place.since)
        if not self._fleet.check_hope(self.version.public_name, waiting):
            raise UnsupportedFeature(self._lacking(place))

    def _lacking(self, place: Place) -> str:
        """What no deployment or engine of the model does of what is asked, for the user."""
        name, request, qos = self.version.public_name, place.request, place.grant.qos
        meant = [one for one in self._fleet.deployments_for(name) if request.modes <= set(one.modes)]
        if not meant:
            modes = " and ".join(sorted(request.modes))
            return f"{name} is not there for {modes}; GET /v1/models lists what each model is for"
        if not any(qos.value in one.qos for one in meant):
            return f"{name} takes no requests of QOS {qos.value}; name another in X-Terascope-QOS"
        names = {one.name for one in meant}
        ready = [one for one in self._ready() if one.row.deployment in names]
        lacks = [one.lacks(request.endpoint, request.needs()) for one in ready]
        lacking = min(lacks, key=len, default=request.needs() or frozenset({request.endpoint}))
        return f"{name} cannot do {', '.join(sorted(lacking))} on the engines that serve it"

    def _serve(self) -> None:
        """Give turns for as long as there are places."""
        while self.queue:
            free = {qos: sum(self._room(one, qos) for one in self._ready()) for qos in self.queue.classes()}
            ticket = self.queue.next(self._fits, free, self._reserved(self.version, 0.0))
            if ticket is None:
                return
            place = self._waiters.pop(ticket)
            place.replica.set_result(self._begin(place, _least_loaded(self._roomy(place))))

    def _begin(self, place: Place, replica: Replica) -> Replica:
        replica.occupy(place.slots)
        if not self._busy:
            self.pace.began(self._clock.monotonic())
        self._busy += 1
        return replica

    def _fits(self, ticket: Ticket) -> bool:
        return any(self._room(one, ticket.qos) for one in self._trusted(self._waiters[ticket]))

    def _roomy(self, place: Place) -> list[Replica]:
        return [one for one in self._trusted(place) if self._room(one, place.grant.qos)]

    def _room(self, replica: Replica, qos: Qos) -> int:
        return self._limit(replica).room(replica.in_flight, qos)

    def _limit(self, replica: Replica) -> InFlightLimit:
        found = self._limits.get(replica)
        if found is None:
            for old in self._limits.keys() - self._ready():
                del self._limits[old]
            found = self._limits[replica] = _limit(replica)
        return found

    def _ready(self) -> tuple[Replica, ...]:
        return self._fleet.replicas_for(self.version.public_name)

    def _trusted(self, place: Place) -> list[Replica]:
        """The able ones that did not lose one request after the other of late, and those that are to be tried again.

        Where all of them did, each error is told at once, and nobody waits: then it is all of them.
        """
        able = self._able(place)
        if len(able) < 2:
            return able
        closed = [one for one in able if one.breaker.closed]
        if not closed or len(closed) == len(able):
            return able
        now = self._clock.monotonic()
        return [one for one in able if one.breaker.admits(now, one.in_flight)]

    def _able(self, place: Place) -> list[Replica]:
        """The ready replicas that can do what is asked; remembered for as long as they are the same."""
        ready = self._fleet.replicas_for(self.version.public_name)
        if self._able_of is not ready:
            self._able_of, self._able_for = ready, {}
        kind = (place.kind, place.grant.qos)
        found = self._able_for.get(kind)
        if found is None:
            found = [one for one in ready if may(one.launch, one.info, *kind)]
            if len(self._able_for) < _KINDS:
                self._able_for[kind] = found
        return found


def _least_loaded(replicas: list[Replica]) -> Replica:
    return replicas[least_loaded([one.in_flight for one in replicas])]


def _limit(replica: Replica) -> InFlightLimit:
    slots, extra = (replica.info.slots, replica.info.extra) if replica.info else (0, 0)
    return InFlightLimit(slots, extra, most=replica.launch.deployment.max_in_flight)

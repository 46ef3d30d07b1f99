"""Fair shares among projects of one class of service, and turns among the users of each project.

Start-time fair queueing (Goyal, Vin, Cheng: Start-Time Fair Queuing, SIGCOMM 1996) with the cost of tokens as length,
which is the Virtual Token Counter of Sheng et al. (Fairness in Serving Large Language Models, OSDI 2024) with weights:
each project has a virtual time, which its requests' costs over its weight move on, and the project that is furthest
behind goes next. Who comes back after a pause starts where the others are: nothing is saved up.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice, takewhile, zip_longest

from terascope.scheduler.ticket import Ticket

_LOOKED_AT = 1000  # tickets that an estimate looks at

Weight = Callable[[str], float]
"""The weight of a project, above 0."""


@dataclass(slots=True)
class _Line:
    """What one project has waiting, by user, and its virtual time."""

    virtual: float
    users: OrderedDict[str, deque[Ticket]] = field(default_factory=OrderedDict)
    expected: int = 0
    count: int = 0


class FairLines:
    """The waiting requests of one class of service."""

    def __init__(self, weight: Weight, *, most: int = 10_000) -> None:
        """`most` projects are remembered while they have nothing waiting."""
        self._weight = weight
        self._kept = most
        self._virtual = self._furthest = 0.0
        self._lines: dict[str, _Line] = {}
        self._waiting: dict[str, _Line] = {}
        self._most = most

    def __len__(self) -> int:
        return sum(line.count for line in self._waiting.values())

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, ticket: Ticket) -> None:
        """Put `ticket` behind those of its user."""
        line = self._line(ticket.project)
        if not line.count:
            line.virtual = max(line.virtual, self._virtual)
            self._waiting[ticket.project] = line
        line.users.setdefault(ticket.user, deque()).append(ticket)
        line.count += 1
        line.expected += ticket.expected

    def remove(self, ticket: Ticket) -> bool:
        """Take out `ticket`, whose turn will not come; return whether it was there."""
        line = self._waiting.get(ticket.project)
        tickets = line.users.get(ticket.user) if line else None
        if line is None or tickets is None or ticket not in tickets:
            return False
        tickets.remove(ticket)
        self._left(ticket, line, tickets)
        return True

    def __contains__(self, ticket: Ticket) -> bool:
        line = self._waiting.get(ticket.project)
        return line is not None and ticket in line.users.get(ticket.user, ())

    def of(self, project: str) -> Iterator[Ticket]:
        """The waiting tickets of one project, in their order."""
        line = self._waiting.get(project)
        return _turns(line) if line else iter(())

    def order(self) -> Iterator[Ticket]:
        """The waiting tickets: by project, whose virtual time is least first; within it users take turns.

        Nothing may be changed while it is iterated.
        """
        if self._waiting:
            first = min(self._waiting, key=self._key)  # mostly it is enough
            yield from self.of(first)
            for project in sorted(self._waiting, key=self._key):
                if project != first:
                    yield from self.of(project)

    def start(self, ticket: Ticket) -> None:
        """The turn of `ticket`, which waits, has come: take it out, and charge what it will probably cost."""
        line = self._waiting[ticket.project]
        self._virtual = max(self._virtual, line.virtual)
        tickets = line.users[ticket.user]
        tickets.remove(ticket)
        line.users.move_to_end(ticket.user)
        self._left(ticket, line, tickets)
        self.charge(ticket, ticket.expected)
        if not self._waiting:  # what is used while nobody waits is taken from nobody
            self._virtual = self._furthest

    def charge(self, ticket: Ticket, cost: int) -> None:
        """Bring what the project has been charged for `ticket` to `cost`: up, or down again."""
        line = self._line(ticket.project)
        line.virtual += (cost - ticket.charged) / self._weight(ticket.project)
        ticket.charged = cost
        self._furthest = max(self._furthest, line.virtual)

    def before(self, ticket: Ticket) -> float:
        """About how much, in micro service units, gets its turn before `ticket`, which waits in this class."""
        line = self._waiting[ticket.project]
        earlier = takewhile(lambda one: one is not ticket, islice(_turns(line), _LOOKED_AT))
        own = sum(one.expected for one in earlier)
        due = line.virtual + own / self._weight(ticket.project)
        return own + sum(
            min(other.expected, max(0.0, due - other.virtual) * self._weight(name))
            for name, other in self._waiting.items()
            if other is not line
        )

    @property
    def expected(self) -> int:
        """What all that waits will probably cost."""
        return sum(line.expected for line in self._waiting.values())

    def _line(self, project: str) -> _Line:
        line = self._lines.get(project)
        if line is None:
            self._forget()
            line = self._lines[project] = _Line(self._virtual)
        return line

    def _left(self, ticket: Ticket, line: _Line, tickets: deque[Ticket]) -> None:
        line.count -= 1
        line.expected -= ticket.expected
        if not tickets:
            del line.users[ticket.user]
        if not line.count:
            del self._waiting[ticket.project]

    def _forget(self) -> None:
        """Projects that wait for nothing and are not ahead begin like new ones: once in a while they are dropped."""
        if len(self._lines) >= self._most:
            ahead = {name: one for name, one in self._lines.items() if one.count or one.virtual > self._virtual}
            self._lines = ahead
            self._most = max(self._kept, 2 * len(ahead))

    def _key(self, project: str) -> tuple[float, str]:
        return self._waiting[project].virtual, project


def _turns(line: _Line) -> Iterator[Ticket]:
    """All that waits in `line`: the first of each user, then the second of each."""
    return (one for turn in zip_longest(*line.users.values()) for one in turn if one is not None)

"""Fair shares among projects of one class of service, and turns among the users of each project.

Of the service that is given while several projects wait, one part is shared by what they use now, the other by what
they have used lately:

- now: start-time fair queueing (Goyal, Vin, Cheng: Start-Time Fair Queuing, SIGCOMM 1996) with the cost of tokens as
  length, which is the Virtual Token Counter of Sheng et al. (Fairness in Serving Large Language Models, OSDI 2024) with
  weights. Each project has a virtual time, which costs over its shares move on; who is furthest behind goes next. Who
  comes back after a pause starts where the others are. So nobody who waits gets less than this part of a fair share.
- lately: who has used least over its shares (`Usage`) goes next. So who had little catches up, and who had much waits.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice, takewhile, zip_longest

from terascope.scheduler.ticket import Ticket
from terascope.scheduler.usage import Usage

_LOOKED_AT = 1000  # tickets that an estimate looks at

CATCH_UP = 0.5
"""The part of service that goes to who has used least lately."""


@dataclass(slots=True)
class _Line:
    """What one project has waiting, by user, and its virtual time."""

    virtual: float
    users: OrderedDict[str, deque[Ticket]] = field(default_factory=OrderedDict)
    expected: int = 0
    count: int = 0


class FairLines:
    """The waiting requests of one class of service."""

    def __init__(self, usage: Usage, *, most: int = 10_000) -> None:
        """`most` projects are remembered while they have nothing waiting."""
        self._usage = usage
        self._kept = self._most = most
        self._virtual = self._furthest = 0.0
        self._owed = 0.0  # to who has used least lately, of the service so far
        self._lines: dict[str, _Line] = {}
        self._waiting: dict[str, _Line] = {}

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
        """The waiting tickets: project by project, whose turn is first; within each, users take turns.

        Nothing may be changed while it is iterated.
        """
        if self._waiting:
            key = (
                self._usage.per_share() if self._owed > 0 else self._virtual_of
            )  # of equals who waits longest is first
            first = min(self._waiting, key=key)  # mostly it is enough
            yield from self.of(first)
            for project in sorted(self._waiting, key=key):
                if project != first:
                    yield from self.of(project)

    def start(self, ticket: Ticket) -> None:
        """The turn of `ticket`, which waits, has come: take it out, and charge what it will probably cost."""
        line = self._waiting[ticket.project]
        ticket.catches_up = self._owed > 0
        if len(self._waiting) > 1:  # who is alone takes nothing from anybody
            self._owed += ticket.expected * (CATCH_UP - ticket.catches_up)
        self._virtual = max(self._virtual, line.virtual)
        tickets = line.users[ticket.user]
        tickets.remove(ticket)
        line.users.move_to_end(ticket.user)
        self._left(ticket, line, tickets)
        self.charge(ticket, ticket.expected)
        if not self._waiting:
            self._virtual = self._furthest

    def ran_alone(self, project: str, cost: int) -> bool:
        """As `add` and `start` for tickets of `project` that had a place when they came, while nobody waited.

        They are charged `cost`. Returns whether they had their turns because the project had used little lately.
        """
        self._usage.add(project, cost)
        line, catches_up = self._line(project), self._owed > 0
        line.virtual = max(line.virtual, self._virtual)
        if not catches_up:
            line.virtual += cost / self._usage.shares(project)
        self._virtual = self._furthest = max(self._furthest, line.virtual)
        return catches_up

    def charge(self, ticket: Ticket, cost: int) -> None:
        """Bring what the project has been charged for `ticket` to `cost`: up, or down again."""
        self._usage.add(ticket.project, cost - ticket.charged)
        if not ticket.catches_up:
            line = self._line(ticket.project)
            line.virtual += (cost - ticket.charged) / self._usage.shares(ticket.project)
            self._furthest = max(self._furthest, line.virtual)
        ticket.charged = cost

    def before(self, ticket: Ticket) -> float:
        """About how much, in micro service units, gets its turn before `ticket`, which waits in this class."""
        line = self._waiting[ticket.project]
        earlier = takewhile(lambda one: one is not ticket, islice(_turns(line), _LOOKED_AT))
        own = sum(one.expected for one in earlier)
        due = line.virtual + own / self._usage.shares(ticket.project)
        return own + sum(
            min(other.expected, max(0.0, due - other.virtual) * self._usage.shares(name))
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

    def _virtual_of(self, project: str) -> float:
        return self._waiting[project].virtual


def _turns(line: _Line) -> Iterator[Ticket]:
    """All that waits in `line`: the first of each user, then the second of each."""
    return (one for turn in zip_longest(*line.users.values()) for one in turn if one is not None)

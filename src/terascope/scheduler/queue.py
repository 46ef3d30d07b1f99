"""The queue of one model: who goes next when there is room."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping

from terascope.core.projects import Qos
from terascope.scheduler.classes import Classes
from terascope.scheduler.fair import FairLines
from terascope.scheduler.ticket import Ticket
from terascope.scheduler.usage import Usage

Fits = Callable[[Ticket], bool]
"""Whether there is a place for a ticket now; the same for tickets of equal needs and class."""


class ModelQueue:
    """Tickets that wait for one model, and how many of each project run.

    A reservation keeps slots for a project: its tickets go first until so many of them run, and nobody else's take the
    last places that are kept. Otherwise the class of service decides first, then fair shares within it.
    """

    def __init__(self, floors: Mapping[Qos, float], usage: Usage) -> None:
        self._classes = Classes(floors)
        self._lines = {qos: FairLines(usage) for qos in Qos}
        self._running: Counter[str] = Counter()
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def waiting(self) -> dict[Qos, int]:
        """How many tickets wait, by class."""
        return {qos: len(lines) for qos, lines in self._lines.items()}

    def __bool__(self) -> bool:
        return self._waiting > 0

    def __contains__(self, ticket: Ticket) -> bool:
        return ticket in self._lines[ticket.qos]

    def running(self, project: str) -> int:
        """How many tickets of `project` have had their turn and are not over."""
        return self._running[project]

    def add(self, ticket: Ticket) -> None:
        """Have `ticket` wait."""
        self._waiting += 1
        self._lines[ticket.qos].add(ticket)

    def remove(self, ticket: Ticket) -> bool:
        """`ticket` waits no more; return whether it did."""
        waited = self._lines[ticket.qos].remove(ticket)
        self._waiting -= waited
        return waited

    def next(self, fits: Fits, free: Mapping[Qos, int], reserved: Mapping[str, int]) -> Ticket | None:
        """Take out the ticket whose turn it is, of those that have a place; None when none has.

        `free` is how many places there are for each class in which anybody waits; `reserved` how many are kept for
        which projects.
        """
        kept = {project: left for project in reserved if (left := reserved[project] - self._running[project]) > 0}
        refused: set[tuple[Hashable, Qos]] = set()
        for ticket in self._order(kept, [qos for qos in self.classes() if free[qos] > sum(kept.values())]):
            kind = (ticket.needs, ticket.qos)
            if kind not in refused and fits(ticket):
                self._start(ticket)
                return ticket
            refused.add(kind)
        return None

    def start_at_once(self, ticket: Ticket) -> None:
        """As `add` and `next`, for a `ticket` that has a place when it comes; nobody waits and nothing is reserved."""
        self._classes.served_alone(ticket.qos, ticket.expected)
        self._lines[ticket.qos].start_at_once(ticket)
        self._running[ticket.project] += 1

    def charge(self, ticket: Ticket, cost: int) -> None:
        """A ticket that runs has cost that much so far, or will have in the end."""
        self._lines[ticket.qos].charge(ticket, cost)

    def end(self, ticket: Ticket) -> None:
        """A ticket that ran is over: what it holds is free. Called once for each that `next` returned."""
        self._running[ticket.project] -= 1
        if not self._running[ticket.project]:
            del self._running[ticket.project]

    def before(self, ticket: Ticket) -> float:
        """About how much, in micro service units, gets its turn before `ticket`, which waits."""
        order = self._classes.order(self.classes())
        earlier = order[: order.index(ticket.qos)]
        return sum(self._lines[qos].expected for qos in earlier) + self._lines[ticket.qos].before(ticket)

    def classes(self) -> list[Qos]:
        """The classes in which anybody waits."""
        return [qos for qos, lines in self._lines.items() if lines]

    def _order(self, kept: Mapping[str, int], classes: list[Qos]) -> Iterator[Ticket]:
        """Tickets of projects whose reserved slots are not all used, then those of `classes`."""
        for project in kept:
            for lines in self._lines.values():
                yield from lines.of(project)
        for qos in self._classes.order(classes):
            yield from self._lines[qos].order()

    def _start(self, ticket: Ticket) -> None:
        self._waiting -= 1
        self._classes.served(ticket.qos, ticket.expected, self.classes())
        self._lines[ticket.qos].start(ticket)
        self._running[ticket.project] += 1

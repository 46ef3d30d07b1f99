"""The queue of one model: who goes next when there is room."""

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

    What runs because nobody waited takes nothing from anybody: the queue is told of it when it is over, or when
    somebody waits.
    """

    def __init__(self, floors: Mapping[Qos, float], usage: Usage) -> None:
        self._classes = Classes(floors)
        self._lines = {qos: FairLines(usage) for qos in Qos}
        self._running: dict[str, int] = {}
        self.size = 0
        """How many tickets wait."""

    def __len__(self) -> int:
        return self.size

    def waiting(self) -> dict[Qos, int]:
        """How many tickets wait, by class."""
        return {qos: len(lines) for qos, lines in self._lines.items()}

    def __bool__(self) -> bool:
        return self.size > 0

    def __contains__(self, ticket: Ticket) -> bool:
        return ticket in self._lines[ticket.qos]

    def running(self, project: str) -> int:
        """How many tickets of `project` have had their turn and are not over."""
        return self._running.get(project, 0)

    def add(self, ticket: Ticket) -> None:
        """Have `ticket` wait."""
        self.size += 1
        self._lines[ticket.qos].add(ticket)

    def remove(self, ticket: Ticket) -> bool:
        """`ticket` waits no more; return whether it did."""
        waited = self._lines[ticket.qos].remove(ticket)
        self.size -= waited
        return waited

    def next(self, fits: Fits, free: Mapping[Qos, int], reserved: Mapping[str, int]) -> Ticket | None:
        """Take out the ticket whose turn it is, of those that have a place; None when none has.

        `free` is how many places there are for each class in which anybody waits; `reserved` how many are kept for
        which projects.
        """
        kept = {project: left for project in reserved if (left := reserved[project] - self.running(project)) > 0}
        refused: set[tuple[Hashable, Qos]] = set()
        for ticket in self._order(kept, [qos for qos in self.classes() if free[qos] > sum(kept.values())]):
            kind = (ticket.needs, ticket.qos)
            if kind not in refused and fits(ticket):
                self._start(ticket)
                return ticket
            refused.add(kind)
        return None

    def ran_alone(self, project: str, qos: Qos, cost: int) -> bool:
        """Charge what ran because nobody waited and nothing was reserved, as if it had waited no time.

        Returns what `FairLines.ran_alone` does.
        """
        if self._classes.owed:
            self._classes.served_alone(qos, cost)
        return self._lines[qos].ran_alone(project, cost)

    def runs_alone(self, ticket: Ticket, cost: int) -> None:
        """As `ran_alone`, for a ticket that is not over; from now on it is like one that had waited."""
        ticket.catches_up = self.ran_alone(ticket.project, ticket.qos, cost)
        ticket.charged = cost

    def charge(self, ticket: Ticket, cost: int) -> None:
        """A ticket that runs has cost that much so far, or will have in the end."""
        self._lines[ticket.qos].charge(ticket, cost)

    def begin(self, ticket: Ticket) -> None:
        """A ticket that `next` did not return runs."""
        self._running[ticket.project] = self.running(ticket.project) + 1

    def end(self, ticket: Ticket) -> None:
        """A ticket that ran is over: what it holds is free. Called once for each that `next` returned or that began."""
        left = self._running[ticket.project] = self._running[ticket.project] - 1
        if not left:
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
        self.size -= 1
        self._classes.served(ticket.qos, ticket.expected, self.classes())
        self._lines[ticket.qos].start(ticket)
        self.begin(ticket)

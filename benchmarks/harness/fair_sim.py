"""Many projects and one model in simulated time: who gets how much, under several orders."""

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from terascope.core.projects import Qos
from terascope.scheduler.queue import ModelQueue
from terascope.scheduler.ticket import Ticket
from terascope.scheduler.usage import Usage

SLOTS = 32
TOKENS_S = 10.0  # of each request that runs


class Order(Protocol):
    """Who is next."""

    def add(self, ticket: Ticket) -> None: ...

    def next(self) -> Ticket | None: ...

    def end(self, ticket: Ticket, cost: int) -> None: ...


class Ours:
    """The scheduler that the gateway has."""

    def __init__(self, shares: dict[str, int], now: Callable[[], float], *, half_life_s: float) -> None:
        usage = Usage(half_life_s, now)
        for project, count in shares.items():
            usage.set_shares(project, count)
        self._queue = ModelQueue({}, usage)
        self._free = dict.fromkeys(Qos, 1)

    def add(self, ticket: Ticket) -> None:
        self._queue.add(ticket)

    def next(self) -> Ticket | None:
        return self._queue.next(lambda ticket: True, self._free, {})

    def end(self, ticket: Ticket, cost: int) -> None:
        self._queue.charge(ticket, cost)
        self._queue.end(ticket)


class Fifo:
    """By arrival."""

    def __init__(self) -> None:
        self._waiting: deque[Ticket] = deque()

    def add(self, ticket: Ticket) -> None:
        self._waiting.append(ticket)

    def next(self) -> Ticket | None:
        return self._waiting.popleft() if self._waiting else None

    def end(self, ticket: Ticket, cost: int) -> None:
        return


class RoundRobin:
    """A request of each project in turn."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Ticket]] = {}

    def add(self, ticket: Ticket) -> None:
        self._waiting.setdefault(ticket.project, deque()).append(ticket)

    def next(self) -> Ticket | None:
        for project in list(self._waiting):
            waiting = self._waiting.pop(project)
            ticket = waiting.popleft()
            if waiting:
                self._waiting[project] = waiting  # at the end
            return ticket
        return None

    def end(self, ticket: Ticket, cost: int) -> None:
        return


class VirtualTokenCounter:
    """VTC with weights (Sheng et al., OSDI 2024), which remembers nothing of who was away."""

    def __init__(self, shares: dict[str, int]) -> None:
        self._shares = shares
        self._waiting: dict[str, deque[Ticket]] = {}
        self._counters = dict.fromkeys(shares, 0.0)

    def add(self, ticket: Ticket) -> None:
        if ticket.project not in self._waiting and self._waiting:
            least = min(self._counters[one] for one in self._waiting)
            self._counters[ticket.project] = max(self._counters[ticket.project], least)
        self._waiting.setdefault(ticket.project, deque()).append(ticket)

    def next(self) -> Ticket | None:
        if not self._waiting:
            return None
        project = min(self._waiting, key=self._counters.__getitem__)
        ticket = self._waiting[project].popleft()
        if not self._waiting[project]:
            del self._waiting[project]
        self._counters[project] += ticket.expected / self._shares[project]
        return ticket

    def end(self, ticket: Ticket, cost: int) -> None:
        self._counters[ticket.project] += (cost - ticket.expected) / self._shares[ticket.project]


@dataclass(frozen=True)
class Kind:
    """How a project asks: its shares, its demand as a multiple of its part, how much of the time, in what pieces."""

    shares: int
    demand: float
    active: float = 1.0  # the part of the time in which it asks
    period_s: float = 7200.0
    tokens: int = 100  # of an answer, on average


@dataclass
class Simulation:
    """`kinds` of projects by name, for `seconds`."""

    kinds: dict[str, Kind]
    seconds: float
    seed: int = 0
    now: float = 0.0
    served: dict[str, float] = field(default_factory=dict)

    @property
    def shares(self) -> dict[str, int]:
        return {name: kind.shares for name, kind in self.kinds.items()}

    def run(self, order: Order) -> dict[str, float]:
        """Tokens that each project got, under `order`."""
        self.now, self.served = 0.0, dict.fromkeys(self.kinds, 0.0)
        arrivals = heapq.merge(*(self._arrivals(name) for name in self.kinds))
        ends: list[tuple[float, int, Ticket, int]] = []
        upcoming = next(arrivals, None)
        while upcoming or ends:
            if ends and (upcoming is None or ends[0][0] <= upcoming[0]):
                self.now, _, ticket, tokens = heapq.heappop(ends)
                order.end(ticket, tokens)
            elif upcoming:
                self.now, _, project, tokens = upcoming
                order.add(Ticket(project, "ada", Qos.BATCH, self.kinds[project].tokens, tokens))
                upcoming = next(arrivals, None)
            if self.now > self.seconds:
                break
            while len(ends) < SLOTS and (chosen := order.next()) is not None:
                length = self._length(chosen)
                self.served[chosen.project] += length
                heapq.heappush(ends, (self.now + length / TOKENS_S, id(chosen), chosen, length))
        return self.served

    def demand(self) -> dict[str, float]:
        """Tokens that each project asks for in all."""
        return {name: float(sum(one[3] for one in self._arrivals(name))) for name in self.kinds}

    def _length(self, ticket: Ticket) -> int:
        assert isinstance(ticket.needs, int)
        return ticket.needs

    def _arrivals(self, name: str) -> Iterator[tuple[float, int, str, int]]:
        """Time, number, project, tokens; the same under every order."""
        kind, draw = self.kinds[name], random.Random(f"{self.seed} {name}")
        part = SLOTS * TOKENS_S * kind.shares / sum(self.shares.values())
        rate = part * kind.demand / kind.active / kind.tokens
        phase = draw.random() * kind.period_s
        now, number = 0.0, 0
        while True:
            now += draw.expovariate(rate)
            while (now + phase) % kind.period_s > kind.active * kind.period_s:  # it does not ask now
                now += kind.period_s - (now + phase) % kind.period_s + draw.expovariate(rate)
            if now > self.seconds:
                return
            number += 1
            yield now, number, name, max(1, round(draw.gammavariate(2.0, kind.tokens / 2.0)))


def entitled(demand: dict[str, float], shares: dict[str, int], capacity: float) -> dict[str, float]:
    """Weighted max-min fairness: nobody gets more than they ask for; the rest is divided by shares."""
    found: dict[str, float] = {}
    left, open_ = capacity, set(demand)
    while open_:
        each = left / sum(shares[name] for name in open_)
        content = {name for name in open_ if demand[name] <= each * shares[name]}
        if not content:
            return found | {name: each * shares[name] for name in open_}
        for name in content:
            found[name] = demand[name]
            left -= demand[name]
        open_ -= content
    return found


def share_error(served: Mapping[str, float], due: Mapping[str, float]) -> float:
    """The largest difference of a project's service from what it is entitled to, as a part of that."""
    return max(abs(served[name] - due[name]) / due[name] for name in due)


def jain(served: Mapping[str, float], due: Mapping[str, float]) -> float:
    """Jain's index of service over entitlement: 1 when it is the same for all."""
    parts = [served[name] / due[name] for name in due]
    return sum(parts) ** 2 / (len(parts) * math.fsum(part * part for part in parts))


def projects(count: int = 200) -> dict[str, Kind]:
    """Of every ten: four want three times their part, two work six hours a day, one has long answers, one short ones,
    two want half of their part; and the first of all wants a hundred times its part."""
    found = {}
    for number in range(count):
        kinds = [Kind(0, 3.0)] * 4 + [Kind(0, 1.0, active=0.25, period_s=86_400.0)] * 2
        kinds += [Kind(0, 1.5, tokens=400), Kind(0, 2.0, tokens=25), Kind(0, 0.5), Kind(0, 0.5)]
        found[f"p{number:03d}"] = replace(kinds[number % 10], shares=1 + number % 4)
    found["p000"] = replace(found["p000"], demand=100.0)
    return found


def compare(hours: float) -> dict[str, dict[str, float]]:
    """`share_error` and `jain` of every order."""
    one = Simulation(projects(), hours * 3600)
    orders: dict[str, Callable[[], Order]] = {
        "terascope": lambda: Ours(one.shares, lambda: one.now, half_life_s=7 * 86_400.0),
        "vtc": lambda: VirtualTokenCounter(one.shares),
        "round_robin": RoundRobin,
        "fifo": Fifo,
    }
    demand, found = one.demand(), {}
    for name, order in orders.items():
        served = one.run(order())
        due = entitled(demand, one.shares, sum(served.values()))
        found[name] = {"share_error": share_error(served, due), "jain": jain(served, due)}
    return found

"""Requests that come at random moments, beside clients that always have one more: both timed over HTTP.

The first are an open loop: a Poisson process whose moments depend on the seed alone, so that a slow answer puts off no
request. The others are a closed loop: each client asks again when its answer is whole. All prompts differ.
"""

import asyncio
import gc
import itertools
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import uvloop

from . import tokens
from .load import Answer, Connection
from .processes import Failed
from .systems import Server

_STAGGER_S = 0.2  # between the first requests of a closed loop, or all its answers would begin and end together


@dataclass(frozen=True)
class Kind:
    """One kind of request: tokens of its prompt, tokens of its answer, further headers."""

    prompt: int
    answer: int
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Arrivals:
    """`count` requests that come at random, `rate` a second."""

    kind: Kind
    rate: float
    count: int


@dataclass(frozen=True)
class Clients:
    """`count` clients of which each always has one request."""

    kind: Kind
    count: int


@dataclass(frozen=True)
class Target:
    """Where requests go, and what their prompts are made of: no two prompts of a `seed` are alike."""

    server: Server
    model: str
    words: range
    seed: int

    def requests(self, kind: Kind, number: int) -> Iterator[bytes]:
        """Requests of the client `number`, without end."""
        chance = random.Random(f"{self.seed} {number}")
        while True:
            (prompt,) = tokens.prompts(chance.getrandbits(64), 1, kind.prompt, self.words)
            yield tokens.request(self.server, self.model, prompt, kind.answer, headers=kind.headers)


@dataclass
class Taken:
    """What came of a phase: its `span` in nanoseconds of the machine's monotonic clock, and all answers."""

    span: tuple[int, int] = (0, 0)
    arrived: list[Answer] = field(default_factory=list)
    asked: list[Answer] = field(default_factory=list)

    @property
    def firsts_ms(self) -> list[float]:
        """Times to the first token of those that came at random."""
        return [(_first(answer) - answer.started) / 1e6 for answer in self.arrived]

    def answers_per_s(self) -> float:
        """Answers to the clients within the span, each counted as far as its events came in it."""
        start, end = self.span
        within = (sum(start <= moment < end for moment in one.times) / len(one.times) for one in self.asked)
        return sum(within) / ((end - start) / 1e9)


def _first(answer: Answer) -> int:
    """When the first token came; a comment that keeps the connection alive is none."""
    return next(moment for moment, part in zip(answer.times, answer.parts, strict=True) if b"data: " in part)


def measure(
    target: Target,
    *,
    arrivals: Arrivals | None = None,
    clients: Clients | None = None,
    seconds: float = 0.0,
    settle_s: float = 0.0,
) -> Taken:
    """Let `clients` ask and `arrivals` come, when `settle_s` have passed; without those for `seconds`.

    Raises Failed when an answer is not whole.
    """
    gc.disable()  # a collection would be measured as the server's delay
    try:
        found: Taken = uvloop.run(_measure(target, arrivals, clients, seconds, settle_s))
        return found
    except* Failed as group:
        raise _one_of(group) from None
    finally:
        gc.enable()


def _one_of(error: BaseException) -> BaseException:
    """The first error in a group of groups."""
    return _one_of(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


async def _measure(
    target: Target, arrivals: Arrivals | None, clients: Clients | None, seconds: float, settle_s: float
) -> Taken:
    taken, over = Taken(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for number in range(clients.count if clients else 0):
            assert clients
            group.create_task(_client(target, clients.kind, number, taken.asked, over))
        await asyncio.sleep(settle_s)
        start = time.monotonic_ns()
        if arrivals:
            await _arrive(target, arrivals, taken.arrived)
        else:
            await asyncio.sleep(seconds)
        taken.span = (start, time.monotonic_ns())
        over.set()
    return taken


async def _client(target: Target, kind: Kind, number: int, found: list[Answer], over: asyncio.Event) -> None:
    await asyncio.sleep(number * _STAGGER_S)
    connection = Connection()
    try:
        for request in target.requests(kind, number):
            if over.is_set():
                break
            found.append(await _ask(target, connection, kind, request))
    finally:
        await connection.close()


async def _arrive(target: Target, arrivals: Arrivals, found: list[Answer]) -> None:
    """Ask at the moments of the process; return when all answers are whole."""
    chance, loop = random.Random(target.seed), asyncio.get_running_loop()
    idle: list[Connection] = []
    all_: list[Connection] = []
    moment = loop.time()
    requests = target.requests(arrivals.kind, -1)

    async def one(request: bytes) -> None:
        if not idle:
            idle.append(Connection())
            all_.append(idle[-1])
        connection = idle.pop()
        found.append(await _ask(target, connection, arrivals.kind, request))
        idle.append(connection)

    try:
        async with asyncio.TaskGroup() as group:
            for request in itertools.islice(requests, arrivals.count):
                moment += chance.expovariate(arrivals.rate)
                await asyncio.sleep(moment - loop.time())
                group.create_task(one(request))
    finally:
        for connection in all_:
            await connection.close()


async def _ask(target: Target, connection: Connection, kind: Kind, request: bytes) -> Answer:
    at = urlsplit(target.server.url)
    await connection.open(at.hostname or "", at.port or 80)
    answer = await connection.ask(request)
    tokens.check(answer, kind.answer)
    return answer

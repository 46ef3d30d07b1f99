"""The agent: beside an engine on a node that takes no connections, it dials out to the gateway and forwards to it."""

import asyncio
import logging
import random
import secrets
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terascope.core.clock import Clock
from terascope.fleet.logs import log_of_rank, read_log_file
from terascope.fleet.tunnel.frames import Hello, Malformed, Welcome, only
from terascope.fleet.tunnel.joined import Joined, LogFeed
from terascope.fleet.tunnel.link import Carrier, Channel
from terascope.fleet.tunnel.session import Session, Stream
from terascope.fleet.waiting import within

Dial = Callable[[], AbstractAsyncContextManager[Channel]]
"""Connects to the gateway. Entering raises `ConnectionError` if that fails now, `ServiceError` if it always will."""

_log = logging.getLogger(__name__)
_FIRST_PAUSE_S = 0.1
_LAST_PAUSE_S = 5.0
_WELCOME_S = 20.0


@dataclass(frozen=True, slots=True)
class Target:
    """What an agent forwards to: a Unix socket (`path`), or a port of this machine; and the engine's log."""

    path: str = ""
    host: str = "127.0.0.1"
    port: int = 0
    log: Path | None = None


class Agent:
    """Keeps one tunnel open. Streams that the gateway opens lead to the engine, or read its log, and nowhere else."""

    def __init__(self, dial: Dial, target: Target, clock: Clock) -> None:
        self._dial = dial
        self._target = target
        self._clock = clock
        self._carrier = Carrier()
        self._tasks: set[asyncio.Task[None]] = set()
        self._session, self._name = Session(self._carrier.wake, self._opened), secrets.token_bytes(16)
        self._gap: asyncio.Task[None] | None = None  # runs while there is no connection
        self._failures = 0

    async def run(self) -> None:
        """Dial in again and again, for ever; running answers outlive gaps that are shorter than the gateway's patience.

        Raises `ServiceError` when the gateway refuses the agent. On raise and cancellation connections to the engine
        are closed.
        """
        try:
            while True:
                await self._once()
                await self._clock.sleep(self._pause_s())
        finally:
            self._session.end("the agent was ended")
            self._stop_waiting()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _once(self) -> None:
        try:
            async with self._dial() as channel:
                welcome = await self._greet(channel)
                try:
                    await self._carrier.carry(self._session, channel)
                finally:
                    self._gap = asyncio.create_task(self._wait_for_the_next(welcome.grace_s))
            _log.warning("the connection to the gateway broke")
        except Malformed as error:
            _log.warning("the gateway takes leave: %s", error)
            self._begin_anew("the tunnel failed")
        except (ConnectionError, TimeoutError) as error:
            _log.warning("no connection to the gateway: %s", str(error) or "it takes too long")

    async def _greet(self, channel: Channel) -> Welcome:
        await channel.send(Hello(self._name, self._session.received).frame().encoded())
        welcome = Welcome.read(only(await within(self._clock, _WELCOME_S, channel.receive())))
        self._stop_waiting()
        self._failures = 0
        if not welcome.resumed:  # it has begun a session of this name: go on with nothing, as it does
            self._session.end("the gateway does not know the session any more")
            self._session = Session(self._carrier.wake, self._opened)
        self._session.resume(welcome.received)
        _log.info("the tunnel is open")
        return welcome

    async def _wait_for_the_next(self, grace_s: float) -> None:
        """After the gateway's patience nobody waits any more for what runs here."""
        await self._clock.sleep(grace_s)
        self._begin_anew("the tunnel was broken for too long")

    def _stop_waiting(self) -> None:
        if self._gap is not None:
            self._gap.cancel()
            self._gap = None

    def _begin_anew(self, reason: str) -> None:
        self._session.end(reason)
        self._session, self._name = Session(self._carrier.wake, self._opened), secrets.token_bytes(16)

    def _pause_s(self) -> float:
        """How long to wait before the next try, longer each time, and never the same for all agents."""
        pause = min(_LAST_PAUSE_S, _FIRST_PAUSE_S * 2.0**self._failures)
        self._failures = min(self._failures + 1, 10)
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 - only so that agents do not come all at once

    def _opened(self, stream: Stream, purpose: bytes) -> None:
        word, *rest = purpose.decode("utf-8", "replace").split() or [""]
        if word == "log" and self._target.log and len(rest) == 3 and all(one.isdecimal() for one in rest):
            lines, follow, rank = map(int, rest)
            log = log_of_rank(self._target.log, rank)
            pieces = read_log_file(log, lines, follow=bool(follow), clock=self._clock)
            self._have(LogFeed(stream, pieces).run())
        elif word == "engine":
            self._have(self._connect(stream, Joined(stream)))  # which takes in what comes in the same message
        else:
            stream.reset("the agent has nothing for that")

    def _have(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, stream: Stream, joined: Joined) -> None:
        """Join `stream` and a new connection to the engine."""
        loop, target = asyncio.get_running_loop(), self._target
        try:
            if target.path:
                await loop.create_unix_connection(lambda: joined, target.path)
            else:
                await loop.create_connection(lambda: joined, target.host, target.port)
        except OSError as error:
            not_yet = isinstance(error, FileNotFoundError | ConnectionRefusedError)
            words = "the engine has not opened its socket yet" if not_yet else f"no connection to the engine: {error}"
            stream.reset(words)

"""The gateway's ends of all tunnels, one per replica that is behind one."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar

from terascope.core.clock import Clock
from terascope.core.errors import EngineUnreachable
from terascope.fleet.tunnel.frames import Frame, Hello, Kind, Malformed, Welcome, only
from terascope.fleet.tunnel.link import Carrier, Channel
from terascope.fleet.tunnel.session import Session
from terascope.fleet.tunnel.transport import StreamTransport
from terascope.fleet.waiting import within

ENGINE = b"engine"
"""What a stream to the engine is opened for."""
_HELLO_S = 10.0  # an agent that has connected says so
_READ = 64 * 1024
_NOT_YET = "its agent has not dialled in yet"
_Proto = TypeVar("_Proto", bound=asyncio.Protocol)


def log_purpose(lines: int, follow: bool, rank: int) -> bytes:
    """What a stream is opened for that gives the log of a node."""
    return f"log {lines} {int(follow)} {rank}".encode()


class GatewayEnd:
    """The gateway's end of one tunnel: at most one session, and at most one connection that carries it."""

    def __init__(self, clock: Clock, grace_s: float) -> None:
        self._clock = clock
        self._grace_s = grace_s
        self._carrier = Carrier()
        self._session: Session | None = None
        self._name = b""  # of the session, given by the agent
        self._connected = asyncio.Event()
        self.serving: set[asyncio.Task[Any]] = set()  # tasks that are in `serve`
        self._owner: Channel | None = None  # the connection that counts
        self._carrying: asyncio.Task[None] | None = None
        self._patience: asyncio.Task[None] | None = None
        self._over = ""

    @property
    def connected(self) -> bool:
        """Whether a connection carries it now."""
        return self._connected.is_set()

    async def serve(self, channel: Channel) -> None:
        """Carry the tunnel over a new connection until that breaks; one that is there already is given up for it.

        What is wrong with the other end is told to it. On cancellation the session waits for the next connection.
        """
        self.serving.add(_this_task())
        try:
            hello = Hello.read(only(await within(self._clock, _HELLO_S, channel.receive())))
            await self._take_over(channel)
            session, welcome = self._greet(hello)
            await channel.send(welcome.frame().encoded())
            await self._carry(session, channel)
        except Malformed as error:
            await _take_leave(channel, str(error))
        except (ConnectionError, TimeoutError):
            return
        finally:
            self.serving.discard(_this_task())
            self._let_go(channel)

    async def connect(self, purpose: bytes, protocol: Callable[[], _Proto]) -> tuple[StreamTransport, _Proto]:
        """Open a stream. While the connection is gone for a moment this waits for the next.

        Raises `EngineUnreachable` when there is no session, or it is lost meanwhile.
        """
        if self._session is None:
            raise EngineUnreachable(self._over or _NOT_YET)
        await self._connected.wait()
        if self._session is None:
            raise EngineUnreachable(self._over or _NOT_YET)
        try:
            stream = self._session.open(purpose)
        except ConnectionError as error:
            raise EngineUnreachable(str(error)) from None
        made = protocol()
        return StreamTransport(stream, made), made

    def close(self, reason: str) -> None:
        """The replica is no more: streams end with `reason`, and no agent is taken any more. Idempotent."""
        self._over = self._over or reason
        self._lose(reason)
        self._stop_waiting()
        if self._carrying is not None:
            self._carrying.cancel()

    async def _take_over(self, channel: Channel) -> None:
        """End the connection before, so that nothing of it comes any more."""
        if self._carrying is not None:
            self._carrying.cancel()
            await asyncio.wait({self._carrying})
        self._carrying, self._owner = None, channel
        self._stop_waiting()

    def _greet(self, hello: Hello) -> tuple[Session, Welcome]:
        """Go on with the session that the agent names, or begin it; return what to answer. Raises `Malformed`."""
        if self._over:
            raise Malformed(self._over)
        session, resumed = self._session, hello.session == self._name
        if session is None or not resumed:
            self._lose("its agent was started anew")
            session, resumed = Session(self._carrier.wake), False
            self._session, self._name = session, hello.session
        session.resume(hello.received if resumed else 0)
        return session, Welcome(resumed, session.received, self._grace_s)

    async def _carry(self, session: Session, channel: Channel) -> None:
        if self._owner is not channel:  # while it was greeted there came another
            raise ConnectionAbortedError
        self._connected.set()
        task = self._carrying = asyncio.create_task(self._carrier.carry(session, channel))
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()
        if not task.cancelled() and (error := task.exception()):
            self._lose(str(error))
            raise error

    def _let_go(self, channel: Channel) -> None:
        """`channel` is broken: unless another is there, the session waits for the next, with patience."""
        if self._owner is channel:
            self._owner = self._carrying = None
            self._connected.clear()
            self._stop_waiting()
            if self._session is not None:
                self._patience = asyncio.create_task(self._wait_for_the_next())

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    async def _wait_for_the_next(self) -> None:
        await self._clock.sleep(self._grace_s)
        self._lose(f"the tunnel to its node was broken for longer than {self._grace_s:g} s")

    def _lose(self, reason: str) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.end(reason)
            self._connected.set()  # whoever waits for the next connection is told
            self._connected.clear()


class Tunnels:
    """Finds the end of each replica's tunnel."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ends: dict[str, GatewayEnd] = {}

    def expect(self, replica_id: str, grace_s: float) -> GatewayEnd:
        """Have an end for a replica; its agent may dial in from now on, and be gone for `grace_s` seconds at a time."""
        return self._ends.setdefault(replica_id, GatewayEnd(self._clock, grace_s))

    def find(self, replica_id: str) -> GatewayEnd | None:
        """The end of a replica's tunnel; None where it has none."""
        return self._ends.get(replica_id)

    def forget(self, replica_id: str) -> None:
        """The replica has ended. Idempotent."""
        if end := self._ends.pop(replica_id, None):
            end.close("its replica has ended")

    async def aclose(self) -> None:
        """End every tunnel; nothing serves one on return."""
        tasks = {task for end in self._ends.values() for task in end.serving}
        for replica_id in tuple(self._ends):
            self.forget(replica_id)
        if tasks:
            await asyncio.wait(tasks)


async def read_log(end: GatewayEnd, *, lines: int, follow: bool, rank: int = 0) -> AsyncGenerator[bytes, None]:
    """Yield the last `lines` of the engine's log, as the agent sees it, and with `follow` what is added to it.

    `rank` is the node's, where the engine has several.

    Ends when the agent has no more, or the tunnel is lost. Raises `EngineUnreachable` when there is none.
    """
    reader = asyncio.StreamReader(limit=_READ)
    transport, _ = await end.connect(log_purpose(lines, follow, rank), lambda: asyncio.StreamReaderProtocol(reader))
    try:
        while data := await reader.read(_READ):
            yield data
    except ConnectionError:
        return
    finally:
        transport.abort()


async def _take_leave(channel: Channel, reason: str) -> None:
    try:
        await channel.send(Frame(Kind.BYE, 0, reason.encode()).encoded())
    except ConnectionError:
        return


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - coroutines run in tasks here
    return task

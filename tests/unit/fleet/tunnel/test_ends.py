"""An agent and the gateway's end of its tunnel, over channels that a test cuts; a small HTTP server is the engine."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from terascope.core.errors import EngineLost, EngineUnreachable
from terascope.engines.echo.httpd import Exchange, HttpServer
from terascope.engines.http1 import HttpAnswer
from terascope.engines.upstream import HttpClient
from terascope.fleet.tunnel.agent import Agent, Target
from terascope.fleet.tunnel.frames import Frame, Hello, Kind, Welcome, only
from terascope.fleet.tunnel.gateway_end import ENGINE, GatewayEnd, Tunnels, read_log
from terascope.fleet.tunnel.link import Channel
from terascope.testing.clock import ManualClock

GRACE_S = 30.0


class Half:
    """One end of a connection in memory."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.other: Half = self
        self.cut = False

    async def send(self, message: bytes) -> None:
        if self.cut:
            raise ConnectionError("cut")
        self.other.inbox.put_nowait(message)
        await asyncio.sleep(0)

    async def receive(self) -> bytes:
        message = None if self.cut else await self.inbox.get()
        if message is None or self.cut:
            raise ConnectionError("cut")
        return message


def halves() -> tuple[Half, Half]:
    one, other = Half(), Half()
    one.other, other.other = other, one
    return one, other


@dataclass
class Between:
    """The gateway's end, the way to it, and the engine behind the agent."""

    end: GatewayEnd
    clock: ManualClock
    client: HttpClient
    engine: Path
    allowed: asyncio.Event = field(default_factory=asyncio.Event)
    connections: list[Half] = field(default_factory=list)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def dial(self) -> AsyncIterator[Channel]:
        await self.allowed.wait()
        here, there = halves()
        self.connections.append(here)
        serving = asyncio.create_task(self.end.serve(there))
        try:
            yield here
        finally:
            _cut(here)
            await serving

    def cut(self) -> None:
        _cut(self.connections[-1])

    async def serve(self, exchange: Exchange) -> None:
        if exchange.request.path == "/large":
            await exchange.reply(200, b"x" * 3_000_000)
        elif exchange.request.path == "/sent":
            await exchange.reply(200, b"%d" % len(exchange.request.body))
        else:
            await exchange.begin(200, "text/plain")
            await exchange.raw(b"5\r\nfirst\r\n")
            if exchange.request.path == "/endless":
                await self.speak_on(exchange)
            await self.go_on.wait()
            await exchange.raw(b"6\r\nsecond\r\n0\r\n\r\n")

    async def speak_on(self, exchange: Exchange) -> None:
        try:
            while True:
                await exchange.raw(b"5\r\nagain\r\n")
                await turn()
        except ConnectionError:
            self.left.set()
            raise


def _cut(half: Half) -> None:
    for one in (half, half.other):
        one.cut = True
        one.inbox.put_nowait(None)


@asynccontextmanager
async def between(directory: Path, *, log: str = "", grace_s: float = GRACE_S) -> AsyncIterator[Between]:
    clock = ManualClock(real_below_s=6.0)
    end = Tunnels(clock).expect("replica", grace_s)
    client = HttpClient("tunnel:replica", dial=lambda protocol: end.connect(ENGINE, protocol))
    here = Between(end, clock, client, directory / "engine.sock")
    (directory / "log").write_text(log)
    server = HttpServer(here.serve)
    await server.listen(path=here.engine)
    agent = Agent(here.dial, Target(path=str(here.engine), log=directory / "log"), clock)
    running = asyncio.create_task(agent.run())
    here.allowed.set()
    try:
        yield here
    finally:
        await client.aclose()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        end.close("over")
        await server.aclose()


async def turn() -> None:
    """Let whatever can run do so; everything here happens in this loop."""
    await asyncio.sleep(0)


async def connected(here: Between) -> None:
    while not here.end.connected:
        await turn()


async def begun(here: Between) -> HttpAnswer:
    await connected(here)
    answer = await here.client.request("GET", "/slow")
    assert await anext(answer) == b"first"
    return answer


async def test_a_running_answer_outlives_gaps(tmp_path: Path) -> None:
    async with between(tmp_path) as here:
        answer = await begun(here)
        for _ in range(3):
            here.cut()
            await connected_again(here)
        here.go_on.set()
        assert await answer.read(100) == b"second"
        assert len(here.connections) == 4


async def connected_again(here: Between) -> None:
    count = len(here.connections)
    while len(here.connections) == count:
        await turn()
    await connected(here)


@pytest.mark.parametrize("grace_s", [GRACE_S, 300.0])
async def test_a_gap_that_is_too_long_ends_it_with_words(grace_s: float, tmp_path: Path) -> None:
    async with between(tmp_path, grace_s=grace_s) as here:
        answer = await begun(here)
        here.allowed.clear()
        here.cut()
        while here.clock.waits().count(grace_s) < 2:  # both ends
            await turn()
        here.clock.advance(grace_s)
        with pytest.raises(EngineLost, match=f"broken for longer than {grace_s:g} s"):
            await answer.read(100)
        with pytest.raises(EngineUnreachable, match="has not dialled in"):
            await here.client.request("GET", "/sent")
        here.go_on.set()
        here.allowed.set()
        await connected(here)
        assert await (await here.client.request("POST", "/sent", b"abc")).read(9) == b"3"


async def test_large_bodies_pass_both_ways(tmp_path: Path) -> None:
    async with between(tmp_path) as here:
        await connected(here)
        assert await (await here.client.request("POST", "/sent", b"x" * 2_000_000)).read(9) == b"2000000"
        assert await (await here.client.request("GET", "/large")).read(4_000_000) == b"x" * 3_000_000


async def test_whoever_leaves_is_seen_to_leave_by_the_engine(tmp_path: Path) -> None:
    async with between(tmp_path) as here:
        other = await begun(here)
        answer = await here.client.request("GET", "/endless")
        assert (await anext(answer)).startswith(b"first")
        await answer.aclose()
        await here.left.wait()
        here.go_on.set()
        assert await other.read(100) == b"second"


async def test_an_engine_that_is_not_there_yet(tmp_path: Path) -> None:
    async with between(tmp_path) as here:
        await connected(here)
        here.engine.unlink()
        with pytest.raises(EngineUnreachable, match="has not opened its socket yet"):
            await here.client.request("GET", "/sent")


async def test_the_log_is_read_and_followed(tmp_path: Path) -> None:
    async with between(tmp_path, log="one\ntwo\nthree\n") as here:
        await connected(here)
        assert [piece async for piece in read_log(here.end, lines=2, follow=False)] == [b"two\nthree\n"]
        (tmp_path / "log-1").write_text("of the second node\n")
        assert [piece async for piece in read_log(here.end, lines=2, follow=False, rank=1)] == [b"of the second node\n"]
        assert [piece async for piece in read_log(here.end, lines=2, follow=False, rank=2)] == []
        following = read_log(here.end, lines=1, follow=True)
        assert await anext(following) == b"three\n"
        with (tmp_path / "log").open("a") as log:
            log.write("four\n")
        assert await anext(following) == b"four\n"
        await following.aclose()


async def test_a_stream_for_anything_else_is_refused(tmp_path: Path) -> None:
    async with between(tmp_path) as here:
        await connected(here)
        reader = asyncio.StreamReader()
        await here.end.connect(b"shell", lambda: asyncio.StreamReaderProtocol(reader))
        with pytest.raises(ConnectionAbortedError, match="nothing for that"):
            await reader.read()


@contextmanager
def served(end: GatewayEnd) -> Iterator[tuple[Half, asyncio.Task[None]]]:
    here, there = halves()
    task = asyncio.create_task(end.serve(there))
    yield here, task
    task.cancel()


async def test_a_second_connection_takes_over_from_the_first() -> None:
    end = GatewayEnd(ManualClock(), GRACE_S)
    with served(end) as (first, was), served(end) as (second, _):
        await first.send(Hello(b"s" * 16, 0).frame().encoded())
        assert not Welcome.read(only(await first.receive())).resumed
        await second.send(Hello(b"s" * 16, 0).frame().encoded())
        assert Welcome.read(only(await second.receive())).resumed
        await was
        await connect_one(end)
        assert only(await second.receive()).kind is Kind.OPEN
    end.close("over")


async def connect_one(end: GatewayEnd) -> None:
    await end.connect(ENGINE, asyncio.Protocol)


@pytest.mark.parametrize(
    ("first", "words"),
    [(b"nonsense!", "longer than its message"), (Frame(Kind.DATA, 1, b"x").encoded(), "a HELLO was expected")],
)
async def test_whoever_is_no_agent_is_told_so(first: bytes, words: str) -> None:
    end = GatewayEnd(ManualClock(), GRACE_S)
    with served(end) as (here, task):
        await here.send(first)
        frame = only(await here.receive())
        assert (frame.kind, words in frame.payload.decode()) == (Kind.BYE, True)
        await task
    assert not end.connected


async def test_an_agent_of_a_replica_that_has_ended_is_sent_away() -> None:
    tunnels = Tunnels(ManualClock())
    end = tunnels.expect("replica", GRACE_S)
    tunnels.forget("replica")
    with served(end) as (here, _):
        await here.send(Hello(b"s" * 16, 0).frame().encoded())
        assert only(await here.receive()) == Frame(Kind.BYE, 0, b"its replica has ended")
    with pytest.raises(EngineUnreachable, match="its replica has ended"):
        await connect_one(end)
    assert tunnels.find("replica") is None

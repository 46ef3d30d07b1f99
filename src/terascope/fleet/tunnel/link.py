"""One connection of a tunnel: carries a session as long as it lasts."""

import asyncio
from typing import Protocol

from terascope.fleet.tunnel.session import Session


class Channel(Protocol):
    """A connection that keeps messages whole and in order."""

    async def send(self, message: bytes) -> None:
        """Send; wait while the other end does not read. Raises `ConnectionError` once the connection is broken."""
        ...

    async def receive(self) -> bytes:
        """Return the next message. Raises `ConnectionError` once the connection is broken or closed."""
        ...


class Carrier:
    """A session and the means to carry it."""

    def __init__(self) -> None:
        self._work = asyncio.Event()

    def wake(self) -> None:
        """There may be something to send."""
        self._work.set()

    async def carry(self, session: Session, channel: Channel) -> None:
        """Carry `session` until the connection breaks; return then. One at a time.

        Raises `Malformed` when the other end is none. On cancellation nothing more is sent or taken in.
        """
        ways = {asyncio.ensure_future(self._send(session, channel)), asyncio.ensure_future(_receive(session, channel))}
        try:
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        for way in done:
            if not isinstance(error := way.exception(), ConnectionError) and error is not None:
                raise error

    async def _send(self, session: Session, channel: Channel) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            while message := session.take():
                await channel.send(message)


async def _receive(session: Session, channel: Channel) -> None:
    while True:
        session.feed(await channel.receive())

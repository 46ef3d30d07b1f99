"""Where an answer goes: the gateway's socket, or a campaign's results."""

from typing import Protocol

Header = tuple[bytes, bytes]


class Reply(Protocol):
    """Takes one answer. Nothing can be taken back: after `begin` an error can only be an event."""

    @property
    def begun(self) -> bool:
        """True once anything has gone out."""
        ...

    @property
    def gone(self) -> bool:
        """True once nobody is there any more to take it."""
        ...

    async def begin(self, status: int, headers: list[Header]) -> None:
        """Send status and headers, once."""
        ...

    async def write(self, data: bytes) -> None:
        """Send a part of the body; waits while the client is slow."""
        ...

    async def end(self, data: bytes) -> None:
        """Send the last part; the answer is over."""
        ...


class Unheard:
    """The reply of a question that the gateway asks for itself: a whole answer, of which nothing goes out."""

    begun = gone = False

    async def begin(self, status: int, headers: list[Header]) -> None:
        """See `Reply.begin`."""

    async def write(self, data: bytes) -> None:
        """See `Reply.write`."""

    async def end(self, data: bytes) -> None:
        """See `Reply.end`."""

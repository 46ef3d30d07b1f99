"""A reply that goes nowhere: what was sent is kept."""

from collections.abc import Awaitable, Callable

from terascope.inference.reply import Header


async def _nothing() -> None:
    """What happens before the end of most replies."""


class KeptReply:
    """`inference.reply.Reply` that keeps what it was given; `before_end` is awaited before the last part is taken."""

    def __init__(self, before_end: Callable[[], Awaitable[None]] = _nothing) -> None:
        self.begun = False
        self.ended = False
        self.gone = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self.parts: list[bytes] = []
        """What was written, and in the end the last part."""
        self._before_end = before_end

    @property
    def body(self) -> bytes:
        """All of it."""
        return b"".join(self.parts)

    async def begin(self, status: int, headers: list[Header]) -> None:
        assert not self.begun, "a reply begins once"
        self.begun, self.status = True, status
        self.headers = {name.decode(): value.decode("latin-1") for name, value in headers}

    async def write(self, data: bytes) -> None:
        assert self.begun, "status and headers come first"
        assert not self.ended, "nothing comes after the end"
        self.parts.append(data)

    async def end(self, data: bytes) -> None:
        await self._before_end()
        await self.write(data)
        self.ended = True

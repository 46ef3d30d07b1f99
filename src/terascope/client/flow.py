"""Answers that come piece by piece, and how a client reads them: at once, or to be awaited."""

from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from typing import Generic, Protocol, Self, TypeVar

import httpx

from terascope.client.errors import told

T = TypeVar("T")
Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)


@dataclass(frozen=True, slots=True)
class About:
    """What an answer says besides its items: the run's id, `name@version` of the model, what was used by name."""

    id: str = ""
    model: str = ""
    usage: dict[str, int] = field(default_factory=dict)


class Reader(Protocol[Item_co]):
    """Makes items of an answer's bytes; for one answer."""

    @property
    def about(self) -> About:
        """What the answer has said of itself so far."""
        ...

    def feed(self, data: bytes) -> Iterator[Item_co]:
        """Take bytes as they came, cut anywhere; yield what is whole with them.

        To be exhausted before it is called again. Raises the `ServiceError` that the answer tells, or that it deserves.
        """
        ...

    def end(self) -> None:
        """To be called when nothing more comes: raises `GatewayUnreachable` when that was not the answer's end."""
        ...


class _Flow(Generic[Item]):
    """What both flows know of their answer."""

    def __init__(self, reader: Reader[Item], url: str) -> None:
        self._reader = reader
        self._url = url

    @property
    def about(self) -> About:
        """What the answer has said of itself so far; `usage` comes last."""
        return self._reader.about


class Flow(_Flow[Item]):
    """An iterator over what an answer brings, as it comes. The request goes out when the first item is asked for.

    Iterating raises the `ServiceError` in which an answer ends that is not whole. `close` before its end, or leaving a
    `with`, ends the work on the engine.
    """

    def __init__(
        self, opened: Callable[[], AbstractContextManager[httpx.Response]], reader: Reader[Item], url: str
    ) -> None:
        """`opened` sends the request and gives an answer that is not an error."""
        super().__init__(reader, url)
        self._items = self._read(opened)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Item:
        return next(self._items)

    def gathered(self, make: Callable[[list[Item]], T]) -> T:
        """Return what `make` makes of all items."""
        return make(list(self._items))

    def close(self) -> None:
        """Leave the answer; idempotent."""
        self._items.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _read(self, opened: Callable[[], AbstractContextManager[httpx.Response]]) -> Generator[Item, None, None]:
        with opened() as response:
            with told(self._url):
                for data in response.iter_bytes():
                    yield from self._reader.feed(data)
            self._reader.end()


class AsyncFlow(_Flow[Item]):
    """`Flow` for `async for` and `async with`."""

    def __init__(
        self, opened: Callable[[], AbstractAsyncContextManager[httpx.Response]], reader: Reader[Item], url: str
    ) -> None:
        """See `Flow`."""
        super().__init__(reader, url)
        self._items = self._read(opened)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        return await anext(self._items)

    async def gathered(self, make: Callable[[list[Item]], T]) -> T:
        """Return what `make` makes of all items."""
        return make([one async for one in self._items])

    async def close(self) -> None:
        """Leave the answer; idempotent."""
        await self._items.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def _read(
        self, opened: Callable[[], AbstractAsyncContextManager[httpx.Response]]
    ) -> AsyncGenerator[Item, None]:
        async with opened() as response:
            with told(self._url):
                async for data in response.aiter_bytes():
                    for one in self._reader.feed(data):
                        yield one
            self._reader.end()

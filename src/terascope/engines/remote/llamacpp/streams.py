"""Several streams of llama.cpp's server as one, choice beside choice, with one usage at its end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import orjson

from terascope.engines.contract import EngineAnswer, Headers
from terascope.engines.remote.llamacpp.answers import Choice, usage_of
from terascope.engines.remote.llamacpp.events import events_of
from terascope.engines.remote.llamacpp.requests import COMPLETIONS, Order
from terascope.protocol.sse import DONE, event

_AHEAD = 64  # events that are read before they are asked for

Ask = Callable[[int], Awaitable[EngineAnswer]]
"""Sends the body of that number."""


class MergedStream:
    """`contract.EngineAnswer` over the streams of an order.

    Each lane reads one stream after the other; so no more of them are open than there are lanes.
    """

    status = 200

    def __init__(self, order: Order, first: list[EngineAnswer], ask: Ask) -> None:
        """`first` are the answers to the first bodies, one for each lane; `ask` gets those to the others."""
        self.headers = Headers({"content-type": "text/event-stream; charset=utf-8"})
        self._order = order
        self._first = first
        self._ask = ask
        self._head: dict[str, Any] = {}
        self._usages: dict[int, dict[str, Any]] = {}
        self._lanes: list[asyncio.Task[None]] = []
        self._events: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(_AHEAD)

    async def chunks(self) -> AsyncIterator[bytes]:
        """As the contract says; an error that the server tells later is the last event."""
        self._lanes = [asyncio.create_task(self._lane(at, answer)) for at, answer in enumerate(self._first)]
        running = len(self._lanes)
        try:
            while running:
                got = await self._events.get()
                if isinstance(got, Exception):
                    raise got
                if got is None:
                    running -= 1
                else:
                    yield got
            yield self._ending()
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        for lane in self._lanes:
            lane.cancel()
        await asyncio.gather(*self._lanes, return_exceptions=True)
        for answer in self._first:
            await answer.aclose()

    async def _lane(self, at: int, answer: EngineAnswer) -> None:
        try:
            await self._read(at, answer)
            for index in range(at + len(self._first), len(self._order.bodies), len(self._first)):
                await self._read(index, await self._ask(index))
            await self._events.put(None)
        except Exception as error:  # noqa: BLE001 - whoever reads the stream is told
            await self._events.put(error)

    async def _read(self, index: int, answer: EngineAnswer) -> None:
        choice = Choice(self._order, index)
        async with aclosing(events_of(answer)) as events:
            async for said in events:
                await self._take(choice, index, said)

    async def _take(self, choice: Choice, index: int, said: dict[str, Any]) -> None:
        if isinstance(said.get("usage"), dict):
            self._usages[index] = said["usage"]
        if choices := said.get("choices"):
            said["choices"] = [choice.whole(one) for one in choices]
        if choices or "error" in said:
            await self._events.put(event(orjson.dumps(self._numbered(said))))

    def _numbered(self, said: dict[str, Any]) -> dict[str, Any]:
        """The event as one of the whole stream: it has the name and the time of the first."""
        self._head = self._head or {name: said[name] for name in ("id", "created") if name in said}
        return {name: value for name, value in said.items() if name not in ("usage", "timings")} | self._head

    def _ending(self) -> bytes:
        if not self._order.usage:
            return DONE
        usage = usage_of(self._order, [self._usages.get(index, {}) for index in range(len(self._order.bodies))])
        kind = "text_completion" if self._order.endpoint == COMPLETIONS else "chat.completion.chunk"
        model = orjson.loads(self._order.bodies[0])["model"]
        last = {**self._head, "object": kind, "model": model, "choices": [], "usage": usage}
        return event(orjson.dumps(last)) + DONE

"""Closed-loop load on an OpenAI-compatible server; prints one JSON line of what it measured.

    python benchmarks/harness/load.py URL --key KEY --concurrency 32 --seconds 5 --tokens 64

Every client keeps one connection and asks again when its answer is whole, for `--seconds`; with `--answers N` it asks
N times instead. All events of all answers count. Reported: answers/s, events/s; time to the first event and to the
whole answer; the longest silence within an answer; the most streams open at once; and every answer that is not whole
("bad": status other than 200, no [DONE], other than `--tokens` token events, nothing for `--patience` seconds, lost
connection). Where the engine stamps its events (mock_engine.mjs), also how long each took to come here.
Needs httptools and uvloop.
"""

import argparse
import asyncio
import gc
import json
import re
import statistics
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import cast
from urllib.parse import urlsplit

import httptools
import uvloop

STAMP = re.compile(rb"token\d+@(\d+)")  # a model may be called name@123
PROMPT = "Say something short about beam lines."


@dataclass(slots=True)
class Answer:
    """One answer as it came. Times are nanoseconds of the machine's monotonic clock."""

    started: int
    status: int = 0
    times: list[int] = field(default_factory=list)
    parts: list[bytes] = field(default_factory=list)
    silence: int = 0
    events: int = 0
    fault: str = ""

    @property
    def first(self) -> int:
        """When its first bytes came."""
        return self.times[0]

    @property
    def last(self) -> int:
        """When its last bytes came, or when it was asked for."""
        return self.times[-1] if self.times else self.started

    def take(self, part: bytes) -> None:
        """Note bytes that came just now."""
        now = time.monotonic_ns()
        if self.times and now - self.times[-1] > self.silence:
            self.silence = now - self.times[-1]
        self.times.append(now)
        self.parts.append(part)

    def judge(self, tokens: int) -> None:
        """Count its events and say in `fault` what is wrong with it, if anything."""
        body = b"".join(self.parts)
        self.events = body.count(b"data: ")
        came = body.count(b'" token')
        if self.status != 200:
            self.fault = self.fault or f"status {self.status}: {body[:300]!r}"
        elif not self.fault and b"data: [DONE]" not in body:
            self.fault = f"no [DONE]: {body[-300:]!r}"
        elif not self.fault and came != tokens:
            self.fault = f"{came} token events, not {tokens}"

    def delays(self) -> list[int]:
        """How long each stamped event took from the engine's writing to our reading."""
        ends = list(accumulate(map(len, self.parts)))
        return [
            self.times[bisect_left(ends, stamp.end())] - int(stamp[1]) for stamp in STAMP.finditer(b"".join(self.parts))
        ]

    def compact(self) -> None:
        """Keep the two times that matter and drop the bytes."""
        self.times = [self.times[0], self.times[-1]] if self.times else []
        self.parts = []


class Connection(asyncio.Protocol):
    """One client: a connection that carries one request at a time."""

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self._whole: asyncio.Future[None] | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._lost: asyncio.Future[None] | None = None

    async def open(self, host: str, port: int) -> None:
        """Connect, unless connected already."""
        if self._transport is None or self._transport.is_closing():
            await asyncio.get_running_loop().create_connection(lambda: self, host, port)

    async def ask(self, request: bytes) -> Answer:
        """Send `request` and return its answer, whole or with a fault."""
        self._parser = httptools.HttpResponseParser(self)
        self._whole = asyncio.get_running_loop().create_future()
        self.answer = answer = Answer(time.monotonic_ns())
        if self._transport:
            self._transport.write(request)
            await self._whole
        else:
            answer.fault = "connection lost before the request"
        self.answer = None
        return answer

    def end(self, fault: str = "") -> None:
        """End the answer that is under way, if one is."""
        if self.answer and self._whole and not self._whole.done():
            self.answer.fault = fault
            self._whole.set_result(None)
        if fault and self._transport:
            self._transport.abort()

    async def close(self) -> None:
        """End what is under way, and return when the connection is gone."""
        self.end("closed")
        if self._lost:
            await self._lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._lost = asyncio.get_running_loop().create_future()
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's are no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._lost and not self._lost.done():  # whoever waits may have been cancelled
            self._lost.set_result(None)
        self.end(f"connection lost: {exc}")

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.end(f"not HTTP: {error}")

    def on_headers_complete(self) -> None:
        if self.answer:
            self.answer.status = self._parser.get_status_code()

    def on_body(self, part: bytes) -> None:
        if self.answer:
            self.answer.take(part)

    def on_message_complete(self) -> None:
        self.end()


@dataclass
class Load:
    """Clients that ask until the time or the number of answers is used up."""

    host: str
    port: int
    request: bytes
    tokens: int
    patience: float
    answers: list[Answer] = field(default_factory=list)

    async def run(self, concurrency: int, seconds: float, count: int) -> None:
        """Return when every client has its last answer."""
        clients = [Connection() for _ in range(concurrency)]
        for client in clients:  # one after the other: opening is not what is measured
            await client.open(self.host, self.port)
        watch = asyncio.create_task(self._watch(clients))
        until = time.monotonic() + seconds
        await asyncio.gather(*(self._ask(client, until, count) for client in clients))
        watch.cancel()

    async def _ask(self, client: Connection, until: float, count: int) -> None:
        asked = 0
        while asked < count if count else time.monotonic() < until:
            asked += 1
            try:
                await client.open(self.host, self.port)
                answer = await client.ask(self.request)
            except OSError as error:
                answer = Answer(time.monotonic_ns(), fault=repr(error))
            if not count:  # answers without end: judge now and let the bytes go
                answer.judge(self.tokens)
                answer.compact()
            self.answers.append(answer)

    async def _watch(self, clients: Sequence[Connection]) -> None:
        """End answers that have been silent for too long: a server that hangs is a finding, not a reason to hang."""
        while True:
            await asyncio.sleep(1)
            old = time.monotonic_ns() - int(self.patience * 1e9)
            for client in clients:
                if client.answer and client.answer.last < old:
                    client.end(f"nothing came for {self.patience:g} s")


def request_bytes(host: str, port: int, path: str, key: str, model: str) -> bytes:
    """The one streaming request that all clients send, ready for the wire."""
    body = json.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": PROMPT}],
            "max_tokens": 64,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def figures(answers: Sequence[Answer]) -> dict[str, object]:
    """What the answers say, all times in milliseconds."""
    good, bad = [one for one in answers if not one.fault], [one for one in answers if one.fault]
    wall = (max(one.last for one in good) - min(one.started for one in good)) / 1e9 if good else 1.0
    delays = [one for answer in good for one in answer.delays()]
    return {
        "answers": len(good),
        "bad": len(bad),
        "bad_example": bad[0].fault if bad else None,
        "seconds": wall,
        "answers_per_s": len(good) / wall,
        "events_per_s": sum(one.events for one in good) / wall,
        "streams_at_once": at_once([(one.first, one.last) for one in good]),
        "silence_max_ms": max((one.silence for one in good), default=0) / 1e6,
        **_spread("first", [one.first - one.started for one in good]),
        **_spread("whole", [one.last - one.started for one in good]),
        **_spread("delay", delays),
    }


def _spread(name: str, nanoseconds: Sequence[int]) -> dict[str, float]:
    if len(nanoseconds) < 2:
        return {}
    cuts = statistics.quantiles(nanoseconds, n=1000, method="inclusive")
    named = {"p50": cuts[499], "p99": cuts[989], "max": max(nanoseconds)}
    return {f"{name}_{part}_ms": value / 1e6 for part, value in named.items()}


def at_once(spans: Sequence[tuple[int, int]]) -> int:
    """The most of `spans` that are open at one moment."""
    changes = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    return max(accumulate(step for _, step in changes), default=0)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("url", help="such as http://127.0.0.1:8000/v1/chat/completions")
    ask.add_argument("--key", default="none")
    ask.add_argument("--model", default="mock")
    ask.add_argument("--tokens", type=int, default=64, help="token events that a whole answer has")
    ask.add_argument("--concurrency", type=int, default=32)
    ask.add_argument("--seconds", type=float, default=5.0)
    ask.add_argument("--answers", type=int, default=0, help="answers per client, in place of --seconds")
    ask.add_argument("--patience", type=float, default=20.0, help="seconds of silence after which an answer is bad")
    a = ask.parse_args()
    at = urlsplit(a.url)
    host, port = at.hostname or "127.0.0.1", at.port or 80
    load = Load(host, port, request_bytes(host, port, at.path, a.key, a.model), a.tokens, a.patience)
    gc.disable()  # a collection would be measured as the server's delay
    uvloop.run(load.run(a.concurrency, a.seconds, a.answers))
    for answer in load.answers:
        if a.answers:
            answer.judge(a.tokens)
    print(json.dumps(figures(load.answers)))


if __name__ == "__main__":
    main()

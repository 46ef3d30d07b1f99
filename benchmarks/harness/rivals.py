"""Projects that ask the same of one model at the same time, some much more than others: what each of them gets."""

import asyncio
import gc
import itertools
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import uvloop

from terascope.client import Client

from . import tokens
from .load import Answer, Connection
from .processes import Failed
from .systems import Server

PROMPT, ANSWER = 128, 64


@dataclass
class Rival:
    """`clients` that always have a request waiting, all with one `key`."""

    name: str
    clients: int
    key: str = ""
    answers: list[Answer] = field(default_factory=list)

    def events(self, start: int, end: int) -> int:
        """Events of answers between two times, in nanoseconds of the machine's monotonic clock."""
        return sum(
            part.count(b"data: ")
            for answer in self.answers
            for moment, part in zip(answer.times, answer.parts, strict=True)
            if start <= moment < end
        )


def with_project(server: Server, name: str, project: str, clients: int) -> Rival:
    """A rival whose requests `project` pays; it may use everything."""
    with Client(server.url, server.key) as client:
        if project not in [one.name for one in client.projects.list().data]:
            client.projects.create(project)
            client.projects.allow(project, "*")
            client.allocations.grant(project, None)
        return Rival(name, clients, client.keys.create(name, project=project).key)


def served(
    server: Server, model: str, words: range, rivals: Sequence[Rival], *, warm_s: float, seconds: float
) -> Mapping[str, int]:
    """Have all ask at once; return the events that each got in `seconds`, after `warm_s`.

    Raises Failed when an answer that ended before was not whole.
    """
    gc.disable()
    try:
        found: dict[str, int] = uvloop.run(_served(server, model, words, rivals, warm_s, seconds))
        return found
    finally:
        gc.enable()


async def _served(
    server: Server, model: str, words: range, rivals: Sequence[Rival], warm_s: float, seconds: float
) -> dict[str, int]:
    tasks = [
        asyncio.create_task(_ask(rival, _requests(server, model, words, rival, number), server.url))
        for rival in rivals
        for number in range(rival.clients)
    ]
    await asyncio.sleep(warm_s)
    start = time.monotonic_ns()
    await asyncio.sleep(seconds)
    end = time.monotonic_ns()
    failed = [task.exception() for task in tasks if task.done()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if failed:
        raise Failed(f"a client ended: {failed[0]!r}")
    return {rival.name: rival.events(start, end) for rival in rivals}


async def _ask(rival: Rival, requests: Iterator[bytes], url: str) -> None:
    at = urlsplit(url)
    client = Connection()
    try:
        for request in requests:
            await client.open(at.hostname or "", at.port or 80)
            asking = asyncio.ensure_future(client.ask(request))
            await asyncio.sleep(0)
            if client.answer:
                rival.answers.append(client.answer)  # while it runs, too
            tokens.check(await asking, ANSWER)
    finally:
        client.end("done")


def _requests(server: Server, model: str, words: range, rival: Rival, number: int) -> Iterator[bytes]:
    keyed = Server(server.url, rival.key)
    for count in itertools.count():
        seed = zlib.crc32(f"{rival.name} {number} {count}".encode())
        (prompt,) = tokens.prompts(seed, 1, PROMPT, words)
        yield tokens.request(keyed, model, prompt, ANSWER)

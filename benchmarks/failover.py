"""`kill -9` of one of two replicas under 50 streams, again and again: is anything lost in silence, how soon is it over.

    make bench NAME=failover

A real `terascope serve` with two replicas of the echo engine, each a process, 20 ms a token. 50 clients ask for one
streamed answer of 40 words after the other. Each time both replicas are ready and all clients are busy, one replica is
killed; after four kills the gateway is another, as the pause before a start grows with every death of its replica.

- `silent_losses`: answers that were neither whole nor ended in an explicit error. A broken connection counts.
- `recover_s`: from a kill until every client has had a whole answer that it asked for after it (median; `recover_max_s`
  the longest). An answer alone takes `answer_s`.
- `errors`: answers that had begun on the replica that died, and ended in `engine_lost`.
- `ready_again_s`: from a kill until both replicas are ready (median), the pause before the start included.
"""

import argparse
import asyncio
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from harness import install, processes, report

from terascope.testing.serve import LOCAL_ECHO, ServeProcess
from terascope.testing.streams import Stream, ask

CLIENTS, TOKEN_MS = 50, 20
TEXT = " ".join(f"word{number}" for number in range(40))
TARGETS = [report.Target("silent_losses", "=", 0)]


@dataclass
class Load:
    """Clients that ask without end, and what came of it."""

    http: httpx.AsyncClient
    answers: list[tuple[int, float, float, Stream]] = field(default_factory=list)
    """Client, when it asked, when it had its answer, the answer."""
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def client(self, number: int) -> None:
        """Ask again and again, until cancelled."""
        while True:
            asked = time.monotonic()
            stream = await ask(self.http, "echo", TEXT)
            async with self.changed:
                self.answers.append((number, asked, time.monotonic(), stream))
                self.changed.notify_all()

    async def recovered(self, killed: float) -> float:
        """Return how long after `killed` the last client had a whole answer that it asked for after that."""
        async with self.changed:
            await self.changed.wait_for(lambda: len(self._whole(killed)) == CLIENTS)
        return max(self._whole(killed).values()) - killed

    def _whole(self, since: float) -> dict[int, float]:
        found: dict[int, float] = {}
        for number, asked, ended, stream in self.answers:
            if asked >= since and stream.whole(TEXT):
                found.setdefault(number, ended)
        return found


async def replicas(http: httpx.AsyncClient) -> list[dict[str, Any]]:
    """The ready replicas, as the gateway shows them."""
    shown = (await http.get("/admin/v1/deployments/echo")).raise_for_status().json()
    return [one for one in shown["running"] if one["status"] == "ready"]


async def both_ready(http: httpx.AsyncClient) -> list[dict[str, Any]]:
    """Return the replicas once both are ready, the one first that was killed least often."""
    while len(ready := await replicas(http)) < 2:  # noqa: ASYNC110 - another process is looked at
        await asyncio.sleep(0.05)
    return sorted(ready, key=lambda one: int(one["restarts"]))


@dataclass
class Round:
    """What one gateway did."""

    streams: list[Stream] = field(default_factory=list)
    recovered_s: list[float] = field(default_factory=list)
    again_s: list[float] = field(default_factory=list)
    answer_s: float = 0.0


async def kill_again_and_again(http: httpx.AsyncClient, kills: int) -> Round:
    """Kill replicas of one gateway under load."""
    load, took = Load(http), Round()
    alone = time.monotonic()
    assert (await ask(http, "echo", TEXT)).whole(TEXT)
    took.answer_s = time.monotonic() - alone
    clients = [asyncio.create_task(load.client(number)) for number in range(CLIENTS)]
    try:
        await load.recovered(time.monotonic())
        for _ in range(kills):
            victim = (await both_ready(http))[0]
            killed = time.monotonic()
            os.kill(int(victim["handle"]["program"]), signal.SIGKILL)
            took.recovered_s.append(await load.recovered(killed))
            await both_ready(http)
            took.again_s.append(time.monotonic() - killed)
    finally:
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
    took.streams = [stream for *_, stream in load.answers]
    return took


async def measure(serve: ServeProcess, kills: int) -> Round:
    """Measure a running gateway."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=serve.url, headers=serve.headers, timeout=120, limits=limits) as http:
        return await kill_again_and_again(http, kills)


def one(kills: int) -> Round:
    """Start a gateway and kill its replicas so often."""
    echo = LOCAL_ECHO | {"replicas": 2, "options": {"delay_ms": str(TOKEN_MS)}}
    with tempfile.TemporaryDirectory() as scratch, ServeProcess(Path(scratch), config={"deployments": [echo]}) as serve:
        serve.ready()
        return asyncio.run(measure(serve, kills))


def result(rounds: Sequence[Round]) -> dict[str, float | None]:
    """The benchmark's figures."""
    streams = [stream for one in rounds for stream in one.streams]
    recovered = [seconds for one in rounds for seconds in one.recovered_s]
    return {
        "kills": len(recovered),
        "answers": len(streams),
        "silent_losses": sum(one.lost(TEXT) for one in streams),
        "errors": sum(bool(one.error) for one in streams),
        "recover_s": statistics.median(recovered),
        "recover_max_s": max(recovered),
        "answer_s": statistics.median(one.answer_s for one in rounds),
        "ready_again_s": statistics.median(seconds for one in rounds for seconds in one.again_s),
    }


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="gateways, one after the other")
    parser.add_argument("--kills", type=int, default=4, help="kills in each")
    given = parser.parse_args()
    print(report.machine(), flush=True)
    rounds = []
    for number in range(given.rounds):
        install.say(f"round {number + 1} of {given.rounds}")
        rounds.append(one(given.kills))
    report.finish("failover", result(rounds), TARGETS, {})


if __name__ == "__main__":
    processes.run("failover", main)

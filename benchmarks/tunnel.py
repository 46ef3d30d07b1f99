"""What the tunnel costs: engines in jobs of a real Slurm, asked through their agents and through a port of their node.

    make bench NAME=tunnel

One `terascope serve` and, on the same two cores, a Slurm of two nodes with three jobs of the echo engine: one that is
reached directly (`reach: door`), two through the tunnel. The two ways are asked in turns.

- `added_p50_ms`: median latency of a whole answer at one connection, less what it is directly.
- `events_vs_direct`: events/s of 32 streams at once over those of as many directly.
- `streams`: streams that were open at once through one tunnel, an event every half second in each; `errors`: answers
  of all that were asked that were not whole.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import uvloop
from harness import install, processes, report, systems
from harness.load import Answer, Connection, at_once
from harness.report import Target, difference, ratio
from harness.systems import Place, Server

from terascope.testing.slurm import SlurmCluster

WORDS, CLIENTS, STREAMS = 200, 32, 500
SLOW_WORDS, SLOW_MS = 30, 500
TARGETS = [Target("added_p50_ms", "<", 2), Target("streams", ">=", STREAMS), Target("errors", "=", 0)]


def configured(logs: Path, port: int) -> dict[str, object]:
    """Three echo engines in jobs; the names of their models say how they are reached."""
    common = {"logs": str(logs), "gpus": False, "poll_s": 0.2}
    sites = {
        "door": common | {"address": "127.0.0.1"},
        "tunnel": common | {"reach": "tunnel", "gateway": f"http://127.0.0.1:{port}"},
    }
    jobs = [("direct", "door", 0), ("tunnel", "tunnel", 0), ("slow", "tunnel", SLOW_MS)]
    deployments = [
        {
            "model": model, "engine": "echo", "site": site, "max_in_flight": 2 * STREAMS,
            "options": {"delay_ms": str(delay)},
        }
        for model, site, delay in jobs
    ]  # fmt: skip
    return {"sites": sites, "deployments": deployments}


def request(server: Server, model: str, words: int, *, stream: bool) -> bytes:
    """A chat whose answer has so many words, ready for the wire."""
    text = " ".join(f"word{number}" for number in range(words))
    body = json.dumps({"model": model, "stream": stream, "messages": [{"role": "user", "content": text}]}).encode()
    head = (
        f"POST {systems.CHAT} HTTP/1.1\r\nHost: {urlsplit(server.url).netloc}\r\nAuthorization: Bearer {server.key}"
        f"\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def wrong(answer: Answer, words: int, *, stream: bool) -> bool:
    """Whether an answer is not whole."""
    body = b"".join(answer.parts)
    end = not stream or body.rstrip().endswith(b"data: [DONE]")
    return bool(answer.fault) or answer.status != 200 or not end or f"word{words - 1}".encode() not in body


async def asked(server: Server, sent: bytes, clients: int, times: int) -> list[Answer]:
    """The answers of so many clients, each of which asks so often."""
    where = urlsplit(server.url)
    connections = [Connection() for _ in range(clients)]

    async def one(client: Connection) -> list[Answer]:
        await client.open(where.hostname or "", where.port or 80)
        return [await client.ask(sent) for _ in range(times)]

    try:
        return [answer for own in await asyncio.gather(*map(one, connections)) for answer in own]
    finally:
        for client in connections:
            client.end("done")


class Ways:
    """Asks a server both ways, and counts what was not whole."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.errors = 0

    def ask(self, model: str, words: int, clients: int, times: int, *, stream: bool = True) -> list[Answer]:
        """See `asked`."""
        sent = request(self._server, model, words, stream=stream)
        answers: list[Answer] = uvloop.run(asked(self._server, sent, clients, times))
        self.errors += sum(wrong(one, words, stream=stream) for one in answers)
        return answers

    def figures(self, model: str, times: int) -> dict[str, float]:
        """Latency and events/s of a model."""
        alone = self.ask(model, 8, 1, times, stream=False)
        many = self.ask(model, WORDS, CLIENTS, max(1, times // 100))
        seconds = (max(one.last for one in many) - min(one.started for one in many)) / 1e9
        events = sum(b"".join(one.parts).count(b"data: ") for one in many)
        return {
            "p50_ms": statistics.median(one.last - one.started for one in alone) / 1e6,
            "events_s": events / seconds,
        }


def measure(server: Server, rounds: int, times: int) -> tuple[dict[str, float | None], dict[str, dict[str, float]]]:
    """The benchmark's figures, and those of each way."""
    ways = Ways(server)
    taken: dict[str, list[dict[str, float]]] = {"direct": [], "tunnel": []}
    for model in taken:
        ways.figures(model, 100)  # warms up
    for number, model in report.interleaved(rounds, list(taken)):
        install.say(f"round {number + 1} of {rounds}: {model}")
        taken[model].append(ways.figures(model, times))
    install.say(f"{STREAMS} streams")
    slow = ways.ask("slow", SLOW_WORDS, STREAMS, 1)
    middle = {model: report.medians(own) for model, own in taken.items()}
    return {
        "added_p50_ms": difference(middle["tunnel"]["p50_ms"], middle["direct"]["p50_ms"]),
        "events_vs_direct": ratio(middle["tunnel"]["events_s"], middle["direct"]["events_s"]),
        "streams": at_once([(one.started, one.last) for one in slow]),
        "errors": ways.errors,
    }, middle


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--rounds", type=int, default=5)
    ask.add_argument("--times", type=int, default=500, help="whole answers in a round")
    a = ask.parse_args()
    print(report.machine(), flush=True)
    with tempfile.TemporaryDirectory(prefix="terascope-tunnel-") as scratch, SlurmCluster() as slurm:
        port, place = processes.free_port(), Place(None, Path(scratch), env=slurm.variables)
        with systems.terascope_with(configured(Path(scratch) / "shared", port), place, port) as server:
            result, ways = measure(server, a.rounds, a.times)
    print(f"\n{report.table(['way', 'p50_ms', 'events_s'], rows(ways))}")
    report.finish("tunnel", result, TARGETS, ways)


def rows(ways: dict[str, dict[str, float]]) -> Sequence[Sequence[object]]:
    """A line for each way."""
    return [[name, own["p50_ms"], own["events_s"]] for name, own in ways.items()]


if __name__ == "__main__":
    processes.run("tunnel", main)

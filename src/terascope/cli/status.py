"""`terascope status`: what runs, and how much it has to do, live in the terminal."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from terascope.cli.connection import with_client
from terascope.cli.show import Json, clean, duration, print_json, when
from terascope.client import Client
from terascope.protocol.status import ReplicaStanding, Status

app = typer.Typer(rich_markup_mode=None, add_completion=False)
_COLOURS = {"ready": "green", "failed": "red", "quarantined": "red", "stopped": "dim"}


@app.command()
@with_client
def status(
    client: Client,
    once: Annotated[bool, typer.Option("--once", help="Print it once, and end.")] = False,
    interval: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 2.0,
    as_json: Json = False,
) -> None:
    """Show deployments, replicas, what they answer and who waits, until Ctrl-C.

    Tokens per second are those of answers that ended between two looks.
    """
    if as_json:
        print_json(client.status())
        return
    looks = pairs(client.status, lambda: time.sleep(interval))
    if once:
        width = None if sys.stdout.isatty() else 10_000  # for a file or a program lines are as long as they are
        Console(width=width, markup=False, highlight=False, emoji=False).print(drawn(*next(looks)))
        return
    with Live(refresh_per_second=4, screen=False) as live:
        for before, now in looks:
            live.update(drawn(before, now))


def pairs(look: Callable[[], Status], wait: Callable[[], None]) -> Iterator[tuple[Status, Status]]:
    """Each look together with the one before it, for ever."""
    before = look()
    while True:
        wait()
        now = look()
        yield before, now
        before = now


def drawn(before: Status, now: Status) -> RenderableType:
    """Two looks as tables: what is, and how fast it went between them."""
    rates = tokens_per_second(before, now)
    deployments = _table("deployment", "model", "where", "state", "ready", "in flight", "tokens/s", "message")
    for one in now.deployments:
        mine = [replica for replica in now.replicas if replica.deployment == one.name]
        where = one.site or ("elsewhere" if one.engine == "remote" else "this machine")
        busy, rate = sum(replica.in_flight for replica in mine), sum(rates.get(replica.id, 0.0) for replica in mine)
        cells = (
            one.name,
            one.model,
            where,
            one.state,
            f"{one.ready}/{one.replicas}",
            str(busy),
            f"{rate:.1f}",
            one.message,
        )
        deployments.add_row(*_cells(cells))
    replicas = _table(
        "replica", "deployment", "status", "for", "in flight", "tokens/s", "requests", "failed", "job", "message"
    )
    for replica in now.replicas:
        replicas.add_row(*_cells(_replica(replica, now.time, rates)))
    queues = _table("model", "qos", "waiting")
    for queue in now.queues:
        queues.add_row(*_cells((queue.model, queue.qos, str(queue.waiting))))
    waiting: RenderableType = queues if now.queues else Text("nobody waits")
    return Group(Text(when(now.time)), deployments, Text(), replicas, Text(), waiting)


def tokens_per_second(before: Status, now: Status) -> Mapping[str, float]:
    """Tokens of answers per second by replica; of one that was not there before, nothing."""
    seconds = now.time - before.time
    then = {one.id: one.completion_tokens for one in before.replicas}
    return {
        one.id: max(0, one.completion_tokens - then[one.id]) / seconds
        for one in now.replicas
        if one.id in then and seconds > 0
    }


def _replica(one: ReplicaStanding, now: float, rates: Mapping[str, float]) -> Sequence[str]:
    return (
        one.id, one.deployment, one.status, duration(max(0.0, now - one.changed)), str(one.in_flight),
        f"{rates.get(one.id, 0.0):.1f}", str(one.requests), str(one.failed), one.job, one.message,
    )  # fmt: skip


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def _cells(texts: Sequence[str]) -> Iterator[Text]:
    """What others wrote must not steer the terminal; states have colours."""
    for text in texts:
        yield Text(clean(text), style=_COLOURS.get(text, ""))

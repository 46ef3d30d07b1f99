"""`terascope tune`: fine-tuning jobs."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from terascope.cli.connection import with_client
from terascope.cli.curve import Curve, check_ending
from terascope.cli.show import Json, clean, details, print_json, table, when
from terascope.client import Client
from terascope.core.errors import BadRequest, ConfigError
from terascope.core.tuning import TuningMethod, TuningStatus
from terascope.protocol.tuning_views import JobEvent, JobView

app = typer.Typer(rich_markup_mode=None, add_completion=False)
Job = Annotated[str, typer.Argument(metavar="JOB", help="As `terascope tune list` shows it.")]
Project = Annotated[str, typer.Option(help="Whose jobs.", show_default="the key's own")]
Plot = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Draw the loss curve into FILE (.png or .svg).", show_default=False)
]
Follow = Annotated[bool, typer.Option("--follow", help="Stay until the job is over; Ctrl-C leaves it running.")]
_LOOK_S = 1.0
_PAGE = 100


@app.callback()
def tune() -> None:
    """Fine-tuning: LoRA adapters, soft prompts and projectors, trained on one's own data."""


@app.command()
@with_client
def create(
    client: Client,
    data: Annotated[str, typer.Argument(metavar="DATA", help="A file of JSON lines, or the id of an uploaded one.")],
    model: Annotated[str, typer.Option(help="The base: NAME, for its newest version, or NAME@VERSION.")],
    method: Annotated[TuningMethod, typer.Option(help="What is trained.")] = TuningMethod.LORA,
    name: Annotated[str, typer.Option(help="What the result is called.", show_default="after the job")] = "",
    validation: Annotated[str, typer.Option(help="Lines that are only measured.", show_default="a tenth of DATA")] = "",
    seed: Annotated[int | None, typer.Option(help="Decides all that is drawn.", show_default="drawn")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A hyperparameter, such as n_epochs=2; may be repeated."),
    ] = None,
    project: Project = "",
    follow: Follow = False,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Train something beside a model; the base stays as it is.

    Each line is {"messages": [...]} or {"prompt": ..., "completion": ...}; the answers are learned.
    """
    if plot is not None:
        check_ending(plot)
    job = client.tuning.create(
        model,
        _uploaded(client, data, project),
        method.value,
        hyperparameters=dict(map(_setting, settings or [])),
        validation_file=_uploaded(client, validation, project) if validation else "",
        suffix=name,
        seed=seed,
        project=project,
    )
    print_json(job) if as_json else print(job.id, flush=True)
    if follow or plot is not None:
        _followed(client, job.id, plot)


@app.command("list")
@with_client
def list_jobs(
    client: Client,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many.")] = 20,
    after: Annotated[str, typer.Option(metavar="JOB", help="Only those older than this one.")] = "",
    project: Project = "",
    as_json: Json = False,
) -> None:
    """List the jobs of a project, newest first."""
    found = client.tuning.list(limit=limit, after=after, project=project).data
    if as_json:
        print_json(found)
        return
    rows = (
        (one.id, one.status, _method(one), one.model, _place(one), one.fine_tuned_model or "", when(one.created_at))
        for one in found
    )
    columns = ("job", "state", "method", "base", "step", "result", "made")
    table(columns, rows, empty="there are no jobs; `terascope tune create DATA --model MODEL` makes one")


@app.command()
@with_client
def show(client: Client, job: Job, plot: Plot = None, as_json: Json = False) -> None:
    """Show one job and its loss curve."""
    one = client.tuning.get(job)
    if as_json:
        print_json(one)
    else:
        details(_shown(one).items())
    if not as_json or plot is not None:
        curve = Curve().take(_told(client, job))
        if not as_json:
            print("\n".join(["", *curve.lines()]))
        if plot is not None:
            curve.draw(plot, one.id)


@app.command()
@with_client
def cancel(client: Client, job: Job) -> None:
    """End a job; what it has trained by then is charged."""
    one = client.tuning.cancel(job)
    print(f"{one.id} is {one.status}")


@app.command()
@with_client
def events(client: Client, job: Job, follow: Follow = False, plot: Plot = None, as_json: Json = False) -> None:
    """Show what happened to a job, oldest first; with --follow, with its loss curve as it grows."""
    if follow and not as_json:
        _followed(client, job, plot)
        return
    found = _told(client, job)
    print_json(found) if as_json else _print_events(found)
    if plot is not None:
        Curve().take(found).draw(plot, job)


def _followed(client: Client, job: str, plot: Path | None) -> None:
    """Show a job until it is over. Raises the error that it failed with."""
    curve = Curve()
    if sys.stdout.isatty():
        with Live(refresh_per_second=4) as live:
            for found in _news(client, job):
                words = [clean(one.message) for one in found if one.type == "message"]
                for line in words:
                    live.console.print(line, markup=False, highlight=False)
                live.update(Group(*map(Text, curve.take(found).lines())))
    else:
        for found in _news(client, job):
            curve.take(found)
            _print_events(found)
    if plot is not None and curve.trained:
        curve.draw(plot, job)
    over = client.tuning.get(job)
    if over.error is not None:
        raise ConfigError(f"{job} failed: {over.error.message}")


def _news(client: Client, job: str) -> Iterator[list[JobEvent]]:
    """What happened since the last time, again and again, until the job is over."""
    last = ""
    while True:
        over = TuningStatus(client.tuning.get(job).status).final
        found = _told(client, job, since=last)
        if found:
            last = found[-1].id
            yield found
        if over:
            return
        time.sleep(_LOOK_S)


def _told(client: Client, job: str, since: str = "") -> list[JobEvent]:
    """All events after the event `since`, oldest first; asked for page by page, newest first."""
    found: list[JobEvent] = []
    after = ""
    while True:
        page = client.tuning.events(job, limit=_PAGE, after=after)
        found += [one for one in page.data if one.id > since]
        if not page.has_more or page.data[-1].id <= since:
            return found[::-1]
        after = page.data[-1].id


def _print_events(found: list[JobEvent]) -> None:
    for one in found:
        print(f"{when(one.created_at)}  {clean(one.message)}", flush=True)


def _uploaded(client: Client, data: str, project: str) -> str:
    """The id of the file; one of this machine is uploaded first."""
    if not Path(data).exists():
        if data.startswith("file_"):
            return data
        raise BadRequest(f"there is no file {data}", param="data")
    return client.files.add(Path(data), "fine-tune", project=project).id


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"--set {text!r}: write NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _method(one: JobView) -> str:
    return str(one.method["type"])


def _place(one: JobView) -> str:
    return f"{one.progress.step}/{one.progress.total_steps}" if one.progress.total_steps else ""


def _shown(one: JobView) -> dict[str, object]:
    names = ("id", "status", "model", "fine_tuned_model", "project", "training_file", "validation_file", "seed")
    progress = one.progress
    losses = {"training loss": progress.train_loss, "held-out loss": progress.held_out_loss}
    return (
        {name: getattr(one, name) for name in names}
        | {"method": _method(one), "hyperparameters": json.dumps(one.method[_method(one)]["hyperparameters"])}
        | {"step": _place(one), **{name: f"{loss:.4f}" for name, loss in losses.items() if loss is not None}}
        | {"made": when(one.created_at), "finished": when(one.finished_at), "data digest": one.data_digest}
        | {"run record": one.run_id, "error": one.error.message if one.error else ""}
    )

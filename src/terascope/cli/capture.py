"""`terascope capture`: datasets of activations."""

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from terascope.cli.connection import Connection, DataDir, Key, Url, found
from terascope.cli.show import Json, print_json, size
from terascope.client import AsyncClient
from terascope.client.capture import Settings, capture
from terascope.client.capture.progress import Progress as Told
from terascope.client.capture.progress import Tell, silent
from terascope.client.capture.settings import sites_of
from terascope.core.errors import BadRequest
from terascope.core.projects import Qos

app = typer.Typer(rich_markup_mode=None, add_completion=False)


class ElementType(StrEnum):
    """Types of elements that can be asked for."""

    F32 = "F32"
    F16 = "F16"
    BF16 = "BF16"


@app.command("capture")
def run(
    prompts: Annotated[
        Path,
        typer.Argument(help="JSON lines with `text`, `tokens` or `messages` (and `id`, labels), or a text a line."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A directory: NAME.zarr, NAME.parquet or NAME.safetensors.")
    ],
    model: Annotated[str, typer.Option("--model", "-m", help="A name, or NAME@VERSION.")],
    site: Annotated[
        list[str] | None, typer.Option(help="As `terascope sites` lists them; may be repeated.", show_default=False)
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(help="Block for sites without one, or `all`; may be repeated.", show_default=False),
    ] = None,
    tokens: Annotated[
        str, typer.Option(help='`all`, `last`, a position, `2:5`, or JSON such as `{"text": "Paris"}`.')
    ] = "all",
    reduce: Annotated[str, typer.Option(help='`mean`, `max`, `norm`, or JSON such as `{"mean": "tokens"}`.')] = "",
    dtype: Annotated[ElementType | None, typer.Option(help="Type of elements.", show_default="the model's")] = None,
    in_flight: Annotated[int, typer.Option(min=1, max=64, help="Requests under way at once.")] = 4,
    skip_failed: Annotated[
        bool, typer.Option("--skip-failed", help="Go on when a prompt fails; prompts.jsonl says why.")
    ] = False,
    qos: Annotated[Qos, typer.Option(help="How urgent it is.")] = Qos.BATCH,
    project: Annotated[str, typer.Option(help="Who pays.", show_default="the key's own")] = "",
    as_json: Json = False,
    url: Url = "",
    key: Key = "",
    data_dir: DataDir = None,
) -> None:
    """Bring what is inside a model at each prompt into a dataset; one that was cut short is continued."""
    settings = Settings(model, sites_of(site or [], layer or []), _value(tokens), _value(reduce) or None, dtype or "")
    where = found(url, key, data_dir)
    with _shown(hidden=as_json) as tell:
        done = asyncio.run(
            _capture(
                where, settings, prompts, output,
                in_flight=in_flight, skip_failed=skip_failed, qos=qos, project=project, tell=tell,
            )
        )  # fmt: skip
    if as_json:
        print_json({"prompts": done.prompts, "failed": done.failed, "rows": done.rows, "bytes": done.bytes})
    else:
        failed = f", {done.failed:,} of them failed" if done.failed else ""
        print(f"{done.prompts:,} prompts{failed}; {done.rows:,} rows, {size(done.bytes)} are in {output}")


async def _capture(where: Connection, settings: Settings, prompts: Path, output: Path, **how: Any) -> Told:
    async with AsyncClient(where.url, where.key) as client:
        return await capture(client, settings, prompts, output, **how)


@contextmanager
def _shown(*, hidden: bool) -> Iterator[Tell]:
    """A progress bar on the terminal; none where the errors go elsewhere."""
    if hidden or not sys.stderr.isatty():
        yield silent
        return
    columns = (
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("asking", total=None)

        def tell(now: Told) -> None:
            told = f"{now.prompts:,} prompts, {now.rows:,} rows, {size(now.bytes)}"
            bar.update(task, total=max(1, now.size), completed=now.read, description=told)

        yield tell


def _value(text: str) -> Any:
    """A value as plans have it: JSON where it is an object or a list, a number, else the word itself."""
    if text.removeprefix("-").isdecimal():
        return int(text)
    if not text.startswith(("{", "[")):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise BadRequest(f"{text[:80]!r} is not JSON") from None

"""`terascope serve`: its options; `serve.py` does it."""

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def serve(
    config: Annotated[Path | None, typer.Option(help="terascope.yaml; without it two small models are served.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the state lives.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to bind [default: 127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="Port to bind [default: 8000]; 0 takes a free one.")] = None,
    key_file: Annotated[Path | None, typer.Option(help="Write the first key there (mode 0600), not here.")] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="How much is logged.")
    ] = "info",
) -> None:
    """Run the gateway and its engines until Ctrl-C."""
    from terascope.core import environment
    from terascope.core.loading import lasting

    with lasting():
        from terascope.cli import serve as program

    program.serve(
        data_dir=data_dir, config_file=config or environment.config_file(), host=host, port=port,
        key_file=key_file, log_level=log_level,
    )  # fmt: skip

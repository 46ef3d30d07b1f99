"""`terascope worker`: the torch engine's server, in place of this process."""

import os
import sys
from importlib.util import find_spec

import typer

from terascope.core.errors import ConfigError

app = typer.Typer(rich_markup_mode=None, add_completion=False)
_PROGRAM = "terascope.engines.torch.worker"


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def worker(context: typer.Context) -> None:
    """Run the torch engine's server; `serve` starts it by itself."""
    if find_spec("torch") is None:
        raise ConfigError("the torch engine is not installed here; run `pip install 'terascope[torch]'`")
    os.execv(sys.executable, [sys.executable, "-m", _PROGRAM, *context.args])  # noqa: S606 - our own program, no shell

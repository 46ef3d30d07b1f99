"""`terascope version`: Terascope and what it runs on."""

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

import typer

from terascope._version import __version__
from terascope.cli.show import Json, details, print_json

app = typer.Typer(rich_markup_mode=None, add_completion=False)
_PACKAGES = ("torch", "transformers", "vllm", "openvino-genai")


@app.command()
def version(as_json: Json = False) -> None:
    """Show the versions of Terascope and of what it runs on."""
    found = versions()
    print_json(found) if as_json else details((name, one or "not installed") for name, one in found.items())


def versions() -> dict[str, str | None]:
    """The versions, read from the packages' metadata: nothing is imported."""
    return {"terascope": __version__, "python": platform.python_version()} | {name: _of(name) for name in _PACKAGES}


def _of(package: str) -> str | None:
    try:
        return installed(package)
    except PackageNotFoundError:
        return None

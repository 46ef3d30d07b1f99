"""`terascope softprompts` and `terascope projectors`: what projects register to be used with a model."""

from pathlib import Path
from typing import Annotated

import typer

from terascope.cli.connection import with_client
from terascope.cli.show import Json, print_json, table, when
from terascope.client import Client
from terascope.core.errors import BadRequest
from terascope.core.projects import LOCAL_PROJECT
from terascope.protocol.artefacts import ArtefactView, Kind

Project = Annotated[str, typer.Option(help="Whose it is.")]
Name = Annotated[str, typer.Argument(metavar="NAME")]


def artefact_app(kind: Kind, what: str) -> typer.Typer:
    """Return the commands of one kind, described by `what`."""
    app = typer.Typer(rich_markup_mode=None, add_completion=False, help=what)
    _add_listing(app, kind)
    _add_changes(app, kind)
    return app


def _add_listing(app: typer.Typer, kind: Kind) -> None:
    @app.command("list")
    @with_client
    def list_all(
        client: Client, project: Annotated[str, typer.Option(help="Of this project alone.")] = "", as_json: Json = False
    ) -> None:
        """List what one's projects have or may use."""
        _show(client.artefacts.list(kind, project).data, as_json=as_json)

    @app.command()
    @with_client
    def show(client: Client, name: Name, project: Project = LOCAL_PROJECT, as_json: Json = False) -> None:
        """Show all versions of one."""
        _show(client.artefacts.show(kind, project, name).data, as_json=as_json)


def _add_changes(app: typer.Typer, kind: Kind) -> None:
    @app.command()
    @with_client
    def add(
        client: Client,
        name: Name,
        file: Annotated[Path, typer.Argument(metavar="FILE", help="A safetensors file.")],
        model: Annotated[str, typer.Option(help="The model that it was made for.")],
        project: Project = LOCAL_PROJECT,
        version: Annotated[str, typer.Option(show_default="the beginning of its sha256")] = "",
        activation: Annotated[str, typer.Option(help="Between a projector's layers.")] = "gelu",
        note: Annotated[str, typer.Option(help="What it is.")] = "",
        as_json: Json = False,
    ) -> None:
        """Register a version."""
        data = _read(file)
        one = client.artefacts.add(kind, project, name, model, data, version=version, activation=activation, note=note)
        print_json(one) if as_json else print(f"{one.project}/{one.name}@{one.version} is for {one.model}")

    @app.command()
    @with_client
    def share(
        client: Client,
        name: Name,
        projects: Annotated[list[str] | None, typer.Argument(metavar="[PROJECT]...")] = None,
        project: Project = LOCAL_PROJECT,
    ) -> None:
        """Let other projects use it, and none besides those named; without any, only its own may."""
        [one, *_] = client.artefacts.share(kind, project, name, tuple(projects or ())).data
        print(f"{one.project}/{one.name} may be used by {', '.join([one.project, *one.shared_with])}")

    @app.command()
    @with_client
    def remove(
        client: Client,
        name: Name,
        project: Project = LOCAL_PROJECT,
        version: Annotated[str, typer.Option(show_default="all")] = "",
    ) -> None:
        """Forget a version, or all."""
        client.artefacts.remove(kind, project, name, version)
        print(f"{project}/{name}{'@' if version else ''}{version} is removed")


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise BadRequest(f"cannot read {file}: {error.strerror}") from None


def _show(found: list[ArtefactView], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    rows = (
        (f"{one.project}/{one.name}", one.version, one.model, " x ".join(map(str, one.shape)),
         " ".join(one.shared_with), when(one.created), one.note)
        for one in found
    )  # fmt: skip
    table(("name", "version", "model", "shape", "shared with", "added", "note"), rows, empty="there is none")

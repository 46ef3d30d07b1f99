"""Which model `terascope plan` means: of the library, of a path, or of a running gateway's catalogue."""

from dataclasses import replace
from pathlib import Path

from terascope.cli.connection import find
from terascope.client import Client
from terascope.core.errors import BadRequest, GatewayUnreachable, ModelNotFound, NotAllowed, NotAuthenticated
from terascope.planner import Architecture, find_model, read_config
from terascope.protocol.admin import ModelView


def planned_model(name: str) -> Architecture:
    """Return the shapes of `name`: of the library or of a path, else of the catalogue of the gateway that is found.

    Raises `ModelNotFound` where none has it, and `BadRequest` where the catalogue's files are not on this machine.
    """
    try:
        return find_model(name)
    except ModelNotFound:
        version = _in_catalogue(name)
        if version is None:
            raise
    return catalogue_shapes(version)


def catalogue_shapes(version: ModelView) -> Architecture:
    """Return the shapes of a version of the catalogue. Raises `BadRequest` where its files are not on this machine."""
    named, config = f"{version.name}@{version.version}", Path(version.directory, "config.json")
    if not version.directory or not config.is_file():
        where = f"in {version.directory} on the gateway's machine" if version.directory else "not with the gateway"
        raise BadRequest(
            f"the files of {named} are {where}, and no config.json of them is here; copy it and give its path",
            param="model",
        )
    return replace(read_config(config), name=named)


def _in_catalogue(name: str) -> ModelView | None:
    """What the gateway's catalogue has under `name`; None where no gateway answers, or one may not ask it."""
    gateway = find()
    if not (gateway.found and (gateway.key or gateway.login)):
        return None
    try:
        with Client(gateway.url, gateway.key) as client:
            return client.catalog.get(name)
    except (ModelNotFound, GatewayUnreachable, NotAllowed, NotAuthenticated):
        return None

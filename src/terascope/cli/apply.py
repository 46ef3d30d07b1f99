"""`terascope apply`: the gateway's models and deployments as a file says, in the words of `terascope.yaml`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from terascope.cli import settings
from terascope.cli.connection import with_client
from terascope.client import Client
from terascope.core.config import Config, DeploymentConfig
from terascope.core.errors import ConfigError
from terascope.protocol.deployments import DeploymentSettings

app = typer.Typer(rich_markup_mode=None, add_completion=False)
_APPLIED = ("models", "deployments")


@app.command()
@with_client
def apply(
    client: Client,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML with `models:` and `deployments:`.")],
    prune: Annotated[bool, typer.Option("--prune", help="Remove deployments that the file does not have.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
) -> None:
    """Make the gateway's models and deployments what a file says; say what had to be done.

    Twice is as once. Deployments that stand in the gateway's own configuration are left alone.
    """
    config = _read(file)
    there = {one.name: one for one in client.deployments.list().data}
    made = {name for name, one in there.items() if not one.declared}
    over = sorted(made - {_name(one) for one in config.deployments}) if prune else []
    if dry_run:
        _foretell(client, config, over)
        return
    for name, model in config.models.items():
        version = client.catalog.add(name, model.source, version=model.version, aliases=model.aliases)
        print(f"model {version.name}@{version.version}: there")
    for one in config.deployments:
        print(f"deployment {_name(one)}: {client.deployments.put(_name(one), _settings(one)).done}")
    for name in over:
        client.deployments.remove(name)
        print(f"deployment {name}: removed")


def _foretell(client: Client, config: Config, over: list[str]) -> None:
    there = {one.name: one for one in client.deployments.list().data}
    for name in config.models:
        print(f"model {name}: would be there")
    for one in config.deployments:
        name, wanted = _name(one), _settings(one).model_dump()
        if name not in there:
            word = "created"
        else:
            same = there[name].settings == wanted and there[name].target == "running"
            word = "unchanged" if same else "changed"
        print(f"deployment {name}: would be {word}")
    for name in over:
        print(f"deployment {name}: would be removed")


def _read(file: Path) -> Config:
    """The file's models and deployments. Raises `ConfigError` for whatever else is in it: nobody would heed that."""
    config = settings.load(file)
    default, given = Config(), {name: getattr(config, name) for name in Config.__dataclass_fields__}
    other = [name for name, value in given.items() if name not in _APPLIED and value != getattr(default, name)]
    if other:
        raise ConfigError(f"{file}: {other[0]} belongs into the gateway's own configuration; `apply` takes {_TAKEN}")
    return config


_TAKEN = " and ".join(f"`{name}`" for name in _APPLIED)


def _name(deployment: DeploymentConfig) -> str:
    return deployment.name or deployment.model.partition("@")[0]


def _settings(deployment: DeploymentConfig) -> DeploymentSettings:
    return DeploymentSettings.model_validate(
        {name: value for name, value in asdict(deployment).items() if name != "name"}
    )

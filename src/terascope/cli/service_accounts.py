"""`terascope service-accounts`: users that are no person."""

from typing import Annotated

import typer

from terascope.cli.connection import with_client
from terascope.cli.show import Json, print_json, table, when
from terascope.client import Client
from terascope.core.projects import Role

app = typer.Typer(rich_markup_mode=None, add_completion=False)
Name = Annotated[str, typer.Argument(metavar="NAME")]
Project = Annotated[str, typer.Option(help="The project that it is of; it works in no other.")]


@app.callback()
def service_accounts() -> None:
    """Service accounts: users that are no person, each of one project."""


@app.command()
@with_client
def create(
    client: Client,
    name: Name,
    project: Project,
    role: Annotated[Role, typer.Option(help="What it is in the project.")] = Role.MEMBER,
    title: Annotated[str, typer.Option(help="What it is for.")] = "",
    as_json: Json = False,
) -> None:
    """Make a service account; `terascope keys create --user` makes a key for it."""
    made = client.service_accounts.create(project, name, role=role, title=title)
    if as_json:
        print_json(made)
        return
    print(f"{made.user} is {made.role} of {project}. A key for it:")
    print(f"  terascope keys create {name} --user {made.user} --project {project}")


@app.command("list")
@with_client
def list_accounts(
    client: Client,
    project: Annotated[str, typer.Option(help="Only those of this project.")] = "",
    as_json: Json = False,
) -> None:
    """List the service accounts of the projects that one may see."""
    found = client.service_accounts.list(project).data
    if as_json:
        print_json(found)
        return
    rows = ((one.project, one.name, one.role or "", one.title, when(one.created), one.created_by) for one in found)
    table(("project", "name", "role", "title", "made", "by"), rows, empty="there is no service account")


@app.command()
@with_client
def remove(client: Client, name: Name, project: Project) -> None:
    """Remove a service account; its keys and tokens are void at once."""
    client.service_accounts.remove(project, name)
    print(f"{project} has no service account {name} any more; its keys are revoked")

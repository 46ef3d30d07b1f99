"""`terascope members`: who is in a project, and as what."""

from typing import Annotated

import typer

from terascope.cli.connection import with_client
from terascope.cli.show import Json, print_json, table, when
from terascope.client import Client
from terascope.core.projects import Role

app = typer.Typer(rich_markup_mode=None, add_completion=False)
Project = Annotated[str, typer.Argument(metavar="PROJECT")]
User = Annotated[str, typer.Argument(metavar="USER", help="The user that keys name.")]


@app.callback()
def members() -> None:
    """Members of projects and their roles: pi, member or auditor."""


@app.command("list")
@with_client
def list_members(client: Client, project: Project, as_json: Json = False) -> None:
    """List the members of a project."""
    found = client.members.list(project).data
    if as_json:
        print_json(found)
        return
    rows = ((one.user, one.role, when(one.added)) for one in found)
    table(("user", "role", "since"), rows, empty=f"{project} has no member")


@app.command()
@with_client
def add(
    client: Client,
    project: Project,
    user: User,
    role: Annotated[Role, typer.Option(help="What they are in the project.")] = Role.MEMBER,
    as_json: Json = False,
) -> None:
    """Make a user a member, or give a member another role."""
    one = client.members.put(project, user, role)
    print_json(one) if as_json else print(f"{one.user} is {one.role} of {project}")


@app.command()
@with_client
def remove(client: Client, project: Project, user: User) -> None:
    """Make a user no member any more; their next request for the project is refused."""
    client.members.remove(project, user)
    print(f"{user} is no member of {project} any more")

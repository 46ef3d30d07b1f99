"""projects and members, asked of a real gateway."""

import re
from collections.abc import Iterator

import pytest

from terascope.client import Client
from terascope.testing.gateway import Served

from .conftest import Cli


@pytest.fixture
def ada(gateway: Served) -> Iterator[str]:
    """The key of the PI of `climate`."""
    with Client(gateway.url, gateway.key) as client:
        if "climate" not in [one.name for one in client.projects.list().data]:
            client.projects.create("climate", title="Regional climate", pi="ada")
        yield client.keys.create("ada", project="climate").key


def test_a_project_from_its_making_to_its_end(cli: Cli) -> None:
    assert "terascope projects allow ocean '*'" in cli("projects", "create", "ocean", "--title", "Tides").out
    allowed = cli("projects", "allow", "ocean", "echo", "--mode", "embed", "--qos", "batch", "--qos", "urgent")
    assert allowed.out == "ocean may use echo: embed; urgent, batch\n"
    assert cli("projects", "allow", "ocean", "*", "--json").json["modes"] == ["query", "embed"]
    shown = cli("projects", "show", "ocean").out
    assert re.search(r"^title +Tides$[\s\S]*^may use \* +query, embed; interactive, batch$", shown, re.MULTILINE)
    assert cli("projects", "deny", "ocean", "*").out == "ocean has no policy for * any more\n"
    assert [one["model"] for one in cli("projects", "show", "ocean", "--json").json["policies"]] == ["echo"]
    assert cli("projects", "shares", "ocean", "3").out == "ocean has 3 shares\n"
    assert cli("projects", "shares", "ocean", "0").status == 2
    assert cli("projects", "close", "ocean").out == "ocean is closed\n"
    assert re.search(r"^ocean +Tides +3 +closed 20.* echo$", cli("projects", "list").out, re.MULTILINE)
    assert cli("projects", "open", "ocean").out == "ocean is open\n"
    again = cli("projects", "create", "ocean")
    assert (again.status, again.err) == (1, "terascope: there is a project 'ocean' already; choose another name\n")


def test_a_pi_manages_the_members_of_her_project(cli: Cli, ada: str) -> None:
    assert cli("members", "add", "climate", "grace/hopper@x", "--role", "auditor", "--key", ada).status == 0
    listed = cli("members", "list", "climate", "--key", ada).out
    assert re.search(r"^ada +pi +20[\s\S]*^grace/hopper@x +auditor +20", listed, re.MULTILINE)
    assert {one["user"] for one in cli("members", "list", "climate", "--json", "--key", ada).json} >= {"ada"}
    gone = cli("members", "remove", "climate", "grace/hopper@x", "--key", ada)
    assert gone.out == "grace/hopper@x is no member of climate any more\n"
    told = cli("members", "remove", "climate", "grace/hopper@x", "--key", ada)
    assert (told.status, "is no member of 'climate'" in told.err) == (1, True)
    assert "there is no project 'local'" in cli("members", "list", "local", "--key", ada).err
    assert [one["name"] for one in cli("projects", "list", "--json", "--key", ada).json] == ["climate"]
    assert "ask an operator" in cli("projects", "close", "climate", "--key", ada).err


def test_a_key_belongs_to_a_user_and_a_project(cli: Cli) -> None:
    made = cli("keys", "create", "desk", "--user", "bob", "--project", "local", "--json").json
    assert (made["user"], made["project"]) == ("bob", "local")
    assert "bob" in cli("members", "list", "local").out
    assert cli("keys", "create", "desk", "--project", "nowhere").err.startswith("terascope: there is no project")


def test_a_reservation_from_its_making_to_its_end(cli: Cli) -> None:
    cli("projects", "create", "beam")
    assert "nothing is reserved" in cli("reservations", "list", "--project", "beam").err
    made = cli("reservations", "create", "beam", "echo", "4", "--starts", "1h", "--ends", "3h", "--note", "run 7")
    [one] = cli("reservations", "list", "--project", "beam", "--json").json
    assert (one["project"], one["model"], one["slots"], one["note"]) == ("beam", "echo", 4, "run 7")
    assert one["ends"] - one["starts"] == pytest.approx(7200)
    assert f"{one['id']} keeps 4 slots of echo for beam until 20" in made.out
    assert re.search(rf"^{one['id']} +beam +echo +4 ", cli("reservations", "list").out, re.MULTILINE)
    late = cli("reservations", "create", "beam", "echo", "4", "--ends", "2001-01-01")
    assert (late.status, "a time to come" in late.err) == (1, True)
    assert cli("reservations", "cancel", one["id"]).out == f"{one['id']} is cancelled\n"
    assert "there is no reservation" in cli("reservations", "cancel", one["id"]).err
    assert "nothing is reserved" in cli("reservations", "list").err

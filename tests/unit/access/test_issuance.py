"""Keys and service accounts, as operators and PIs make them; a PI reaches into no project but hers."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from terascope.access.access import Access
from terascope.access.principal import Principal
from terascope.access.projects import Right
from terascope.core.errors import BadRequest, Conflict, NotAllowed, NotAuthenticated, NotFound
from terascope.core.models import Mode, ModelVersion, Task
from terascope.core.projects import Role
from terascope.store.database import Database
from terascope.testing.clock import ManualClock
from terascope.testing.databases import new_sqlite

from .conftest import holder

VERSION = ModelVersion("m", "1", "d", "echo:", "", Task.GENERATE, 0)
ROOT = Principal("key_o", "root", frozenset({"operator"}), "root")
PI = Principal("key_p", "pi", frozenset({"query", "embed"}), "pi", "climate")
MEMBER = Principal("key_m", "bob", frozenset({"query", "embed"}), "bob", "climate")
OTHER = Principal("key_x", "mallory", frozenset({"query", "embed"}), "mallory", "ocean")


@pytest.fixture
async def access(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Access]:
    database = await Database.open(new_sqlite(tmp_path / "t.db"))
    access = Access(database, clock)
    for name, pi in (("climate", "pi"), ("ocean", "mallory")):
        await access.projects.create(name, pi=pi)
        await access.projects.put_policy(name, "*", ["query"], ["interactive"])
    await access.projects.put_member("climate", "bob", Role.MEMBER)
    await access.projects.put_member("ocean", "bob", Role.PI)
    yield access
    await database.aclose()


async def test_a_pis_key_works_in_her_project_only_whatever_else_its_user_may(access: Access) -> None:
    key, row = await access.issuance.create_key(PI, "bob's", ["query"], user="bob")
    assert (row.project, row.confined) == ("climate", True)
    who = await holder(access, key)
    assert (await access.admit(who, VERSION, Mode.QUERY)).project == "climate"
    for asked in ("ocean", "local"):
        with pytest.raises(NotAllowed):
            await access.admit(who, VERSION, Mode.QUERY, project=asked)
    assert [one.name for one in await access.projects.visible_to(who)] == ["climate"]
    with pytest.raises(NotFound):
        await access.projects.require(who, "ocean", Right.SEE)
    with pytest.raises(NotFound):
        await access.issuance.create_key(who, "further", ["query"], project="ocean")
    assert await access.allocations.usage(who) == []


async def test_an_operators_key_works_wherever_its_user_may(access: Access) -> None:
    key, row = await access.issuance.create_key(ROOT, "bob's", ["query"], user="bob", project="climate")
    assert not row.confined
    who = await holder(access, key)
    assert (await access.admit(who, VERSION, Mode.QUERY, project="ocean")).project == "ocean"
    _, own = await access.issuance.create_key(ROOT, "another", ["operator"])
    assert own.project == "local"


@pytest.mark.parametrize(
    ("who", "project", "scopes", "why"),
    [
        (PI, "climate", ["operator"], "cannot give the scope 'operator'"),
        (PI, "climate", ["query", "tune"], "cannot give the scope 'tune'"),
        (PI, "ocean", ["query"], "there is no project 'ocean'"),
        (PI, "local", ["query"], "there is no project 'local'"),
        (PI, "none", ["query"], "there is no project 'none'"),
        (MEMBER, "climate", ["query"], "your role in climate does not allow that"),
        (OTHER, "climate", ["query"], "there is no project 'climate'"),
    ],
)
async def test_what_nobody_may_give(access: Access, who: Principal, project: str, scopes: list[str], why: str) -> None:
    with pytest.raises((NotAllowed, NotFound), match=why):
        await access.issuance.create_key(who, "x", scopes, project=project)
    assert await access.keys.list() == []


async def test_a_pi_lists_and_revokes_the_keys_of_her_project(access: Access) -> None:
    made = {}
    for name, project, scopes in (
        ("a", "climate", ["query"]),
        ("b", "ocean", ["query"]),
        ("c", "climate", ["operator"]),
    ):
        made[name] = (await access.issuance.create_key(ROOT, name, scopes, project=project))[1].id
    assert [row.id for row in await access.issuance.list_keys(PI, "climate")] == [made["a"]]
    assert len(await access.issuance.list_keys(ROOT)) == 3
    assert len(await access.issuance.list_keys(ROOT, "climate")) == 2
    for project, kind in (("", NotAllowed), ("ocean", NotFound)):
        with pytest.raises(kind):
            await access.issuance.list_keys(PI, project)
    told = set()
    for key_id in (made["b"], made["c"], "key_none"):
        with pytest.raises(NotAllowed) as caught:
            await access.issuance.revoke_key(PI, key_id)
        told.add(caught.value.message)
    assert len(told) == 1, "whether a key exists elsewhere is not told"
    with pytest.raises(NotAllowed):
        await access.issuance.revoke_key(MEMBER, made["a"])
    assert (await access.issuance.revoke_key(PI, made["a"])).revoked is not None
    assert [row.id for row in await access.keys.list() if row.revoked] == [made["a"]]


# service accounts


async def test_a_service_account_from_its_making_to_its_end(access: Access) -> None:
    row = await access.issuance.create_account(PI, "climate", "nightly", Role.MEMBER, "the nightly run")
    assert (row.user_id, row.created_by) == ("service:climate/nightly", "pi")
    assert await access.issuance.list_accounts(MEMBER) == [row]
    assert await access.issuance.list_accounts(ROOT, "climate") == [row]
    keys = [
        await access.issuance.create_key(who, "robot", ["query"], user=row.user_id, project="climate")
        for who in (PI, ROOT)
    ]
    assert all(made.confined for _, made in keys)
    who = await holder(access, keys[0][0])
    assert (await access.admit(who, VERSION, Mode.QUERY)).project == "climate"
    await access.issuance.remove_account(PI, "climate", "nightly")
    for key, _ in keys:
        with pytest.raises(NotAuthenticated, match="revoked"):
            await holder(access, key)
    assert [one.user_id for one in await access.projects.members("climate")] == ["bob", "pi"]
    with pytest.raises(NotFound, match="has no service account 'nightly'"):
        await access.issuance.remove_account(PI, "climate", "nightly")
    actions = {one.action: one for one in await access.audit.newest(100, target="climate")}
    assert actions["service_account.create"].details == {
        "name": "nightly",
        "role": "member",
        "title": "the nightly run",
    }
    assert "service_account.remove" in actions


async def test_an_account_of_the_same_name_in_another_project_is_another(access: Access) -> None:
    for who, project in ((PI, "climate"), (OTHER, "ocean")):
        await access.issuance.create_account(who, project, "nightly", Role.MEMBER)
    key, _ = await access.issuance.create_key(OTHER, "x", ["query"], user="service:ocean/nightly")
    await access.issuance.remove_account(PI, "climate", "nightly")
    assert (await holder(access, key)).user_id == "service:ocean/nightly"
    with pytest.raises(Conflict, match="already"):
        await access.issuance.create_account(OTHER, "ocean", "nightly", Role.MEMBER)


async def test_no_key_is_made_for_a_service_account_that_is_not_there(access: Access) -> None:
    await access.issuance.create_account(OTHER, "ocean", "nightly", Role.MEMBER)
    for user in ("service:climate/none", "service:ocean/nightly", "service:", "service:climate", "service:climate/A"):
        with pytest.raises(BadRequest):
            await access.issuance.create_key(ROOT, "x", ["query"], user=user, project="climate")
        with pytest.raises(BadRequest):
            await access.issuance.create_key(PI, user, ["query"])
    await access.issuance.create_account(ROOT, "climate", "root", Role.MEMBER)
    with pytest.raises(BadRequest, match="cannot be an operator"):
        await access.issuance.create_key(ROOT, "x", ["operator"], user="service:climate/root", project="climate")


@pytest.mark.parametrize("who", [MEMBER, OTHER])
async def test_only_a_pi_of_the_project_makes_and_removes_them(access: Access, who: Principal) -> None:
    await access.issuance.create_account(PI, "climate", "nightly", Role.MEMBER)
    with pytest.raises((NotAllowed, NotFound)):
        await access.issuance.create_account(who, "climate", "other", Role.MEMBER)
    with pytest.raises((NotAllowed, NotFound)):
        await access.issuance.remove_account(who, "climate", "nightly")
    assert [one.name for one in await access.issuance.list_accounts(ROOT)] == ["nightly"]


@pytest.mark.parametrize("name", ["", "A", "a b", "a/b", "../x", "x" * 65, "a\n", "a\0", "'; --", "ü"])
async def test_names_of_service_accounts(access: Access, name: str) -> None:
    with pytest.raises(BadRequest):
        await access.issuance.create_account(PI, "climate", name, Role.MEMBER)


async def test_the_membership_of_a_service_account_goes_with_it_alone(access: Access) -> None:
    await access.issuance.create_account(PI, "climate", "nightly", Role.MEMBER)
    for project, user in (("climate", "service:climate/nightly"), ("ocean", "service:climate/nightly")):
        with pytest.raises(BadRequest, match="service account"):
            await access.projects.put_member(project, user, Role.PI)
        with pytest.raises(BadRequest, match="service-accounts remove"):
            await access.projects.remove_member(project, user)

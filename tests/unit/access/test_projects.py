"""Who may do what in a project; what is not allowed is denied."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from terascope.access.access import Access
from terascope.access.principal import Principal
from terascope.access.projects import Right
from terascope.core.errors import BadRequest, Conflict, NotAllowed, NotFound
from terascope.core.models import Mode, ModelVersion, Task
from terascope.core.prices import Price
from terascope.core.projects import Qos, Role
from terascope.store.database import Database
from terascope.testing.clock import ManualClock
from terascope.testing.databases import new_sqlite

VERSION = ModelVersion("m", "1", "d", "echo:", "", Task.GENERATE, 0)
OPERATOR = Principal("key_o", "root", frozenset({"operator"}), "root")


def person(user: str, project: str = "climate") -> Principal:
    return Principal(f"key_{user}", user, frozenset(Mode), user, project)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def access(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Access]:
    database = await Database.open(new_sqlite(tmp_path / "t.db"))
    access = Access(database, clock)
    await access.projects.create("climate", "Regional climate", pi="pi")
    await access.projects.put_member("climate", "member", Role.MEMBER)
    await access.projects.put_member("climate", "auditor", Role.AUDITOR)
    yield access
    await database.aclose()


async def allow(access: Access, model: str = "*", modes: tuple[str, ...] = ("query",)) -> None:
    await access.projects.put_policy("climate", model, modes, ["interactive"])


async def test_nothing_is_allowed_until_a_policy_says_so(access: Access) -> None:
    with pytest.raises(NotAllowed, match="climate may not use m in the mode query"):
        await access.admit(person("pi"), VERSION, Mode.QUERY)
    await allow(access)
    grant = await access.admit(person("pi"), VERSION, Mode.QUERY)
    assert (grant.project, grant.qos, grant.model) == ("climate", Qos.INTERACTIVE, "m@1")
    await access.projects.remove_policy("climate", "*")
    with pytest.raises(NotAllowed):
        await access.admit(person("pi"), VERSION, Mode.QUERY)


async def test_a_right_that_was_given_is_remembered_for_its_own_caller_and_version_alone(access: Access) -> None:
    """A key that lost a scope is another caller under the same id; a version that got a price is another version."""
    await allow(access, modes=("query", "embed"))
    who = person("pi")
    first = await access.admit(who, VERSION, Mode.QUERY)
    assert await access.admit(who, VERSION, Mode.QUERY) is first
    assert (await access.admit(who, VERSION, Mode.EMBED)).mode is Mode.EMBED
    with pytest.raises(NotAllowed, match="QOS batch"):
        await access.admit(who, VERSION, Mode.QUERY, qos=Qos.BATCH)
    with pytest.raises(NotAllowed, match="tune"):
        await access.admit(who, VERSION, Mode.QUERY, also=frozenset({Mode.TUNE}))
    dearer = replace(VERSION, own_price=Price(3, 4))
    assert (await access.admit(who, dearer, Mode.QUERY)).price == Price(3, 4)
    with pytest.raises(NotAllowed, match="scope"):
        await access.admit(replace(who, scopes=frozenset({Mode.EMBED})), dearer, Mode.QUERY)
    await access.projects.remove_member("climate", "pi")
    with pytest.raises(NotAllowed, match="may not use the project"):
        await access.admit(who, VERSION, Mode.QUERY)


@pytest.mark.parametrize(
    ("model", "fits"), [("*", True), ("m", True), ("m@1", True), ("m@2", False), ("n", False), ("M", False)]
)
@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("qos", Qos)
async def test_a_policy_names_model_mode_and_qos(access: Access, model: str, fits: bool, mode: Mode, qos: Qos) -> None:
    await allow(access, model, ("query", "tune"))
    asked = access.admit(person("member"), VERSION, mode, qos=qos)
    if fits and mode in ("query", "tune") and qos == "interactive":
        assert (await asked).qos is qos
    else:
        with pytest.raises(NotAllowed):
            await asked


@pytest.mark.parametrize(
    ("user", "rights"),
    [
        ("pi", {"use", "see", "audit", "manage"}),
        ("member", {"use", "see"}),
        ("auditor", {"see", "audit"}),
        ("stranger", set()),
    ],
)
async def test_what_each_role_may_do(access: Access, user: str, rights: set[str]) -> None:
    for right in Right:
        asked = access.projects.require(person(user), "climate", right)
        if right in rights:
            assert (await asked).name == "climate"
        else:
            with pytest.raises(NotAllowed if rights else NotFound):
                await asked
        assert (await access.projects.require(OPERATOR, "climate", right)).name == "climate"
    await allow(access)
    asked_model = access.admit(person(user), VERSION, Mode.QUERY)
    if "use" in rights:
        await asked_model
    else:
        with pytest.raises(NotAllowed, match="may not use the project 'climate'"):
            await asked_model


async def test_the_request_names_who_pays(access: Access) -> None:
    await allow(access)
    ada = person("ada", "local")
    with pytest.raises(NotAllowed):
        await access.admit(ada, VERSION, Mode.QUERY)  # the key's project is no right to use it
    await access.projects.put_member("local", "ada", Role.MEMBER)
    assert (await access.admit(ada, VERSION, Mode.QUERY)).project == "local"
    for strange in ("climate", "none", "Ünknown", "x" * 300, "a'; DROP TABLE keys; --"):
        with pytest.raises(NotAllowed, match="may not use the project"):
            await access.admit(ada, VERSION, Mode.QUERY, project=strange)
    await access.projects.put_member("climate", "ada", Role.MEMBER)
    assert (await access.admit(ada, VERSION, Mode.QUERY, project="climate")).project == "climate"


async def test_who_is_no_member_any_more_is_refused_at_once(access: Access) -> None:
    await allow(access)
    await access.admit(person("member"), VERSION, Mode.QUERY)
    await access.projects.remove_member("climate", "member")
    with pytest.raises(NotAllowed):
        await access.admit(person("member"), VERSION, Mode.QUERY)


async def test_another_gateways_change_is_seen_within_seconds(access: Access, clock: ManualClock) -> None:
    await allow(access)
    await access.admit(person("member"), VERSION, Mode.QUERY)
    await access.projects._members.remove("climate", "member")
    await access.admit(person("member"), VERSION, Mode.QUERY)
    clock.advance(6)
    with pytest.raises(NotAllowed):
        await access.admit(person("member"), VERSION, Mode.QUERY)


async def test_a_closed_project_is_used_by_nobody(access: Access) -> None:
    await allow(access)
    closed = await access.projects.change("climate", closed=True)
    assert closed.closed is not None
    for who in (person("pi"), OPERATOR):
        with pytest.raises(NotAllowed, match="climate is closed"):
            await access.admit(who, VERSION, Mode.QUERY, project="climate")
    assert await access.projects.change("climate", closed=True) == closed
    assert (await access.projects.change("climate", closed=False, title=" Weather ")).title == "Weather"
    await access.admit(person("pi"), VERSION, Mode.QUERY)
    with pytest.raises(Conflict, match="`local` cannot be closed"):
        await access.projects.change("local", closed=True)


@pytest.mark.parametrize("name", ["", "Climate", "a b", "-x", "x" * 65, "a/b", "a\n", "\x00", "é"])
async def test_bad_project_names_are_refused(access: Access, name: str) -> None:
    with pytest.raises(BadRequest):
        await access.projects.create(name)


async def test_bad_texts_are_refused(access: Access) -> None:
    projects = access.projects
    for user in ("", " ", "x" * 201, "a\nb", "\x00"):
        with pytest.raises(BadRequest, match="`user`"):
            await projects.put_member("climate", user, Role.MEMBER)
    for bad in (
        projects.create("other", "a\x1bb"),
        projects.put_policy("climate", "a b", ["query"], ["batch"]),
        projects.put_policy("climate", "*", ["root"], ["batch"]),
        projects.put_policy("climate", "*", [], ["batch"]),
        projects.put_policy("climate", "*", ["query"], ["never"]),
    ):
        with pytest.raises(BadRequest):
            await bad
    with pytest.raises(Conflict):
        await projects.create("climate")


async def test_requests_that_come_together_share_one_look(access: Access) -> None:
    found = await asyncio.gather(*(access.projects.find("climate") for _ in range(20)))
    assert len({id(one) for one in found}) == 1
    assert access.projects.known("climate") is found[0]


async def test_who_was_cancelled_takes_nothing_from_the_others(access: Access) -> None:
    looking = [asyncio.create_task(access.projects.find("climate")) for _ in range(2)]
    await asyncio.sleep(0)
    looking[0].cancel()
    assert await looking[1] is not None
    assert looking[0].cancelled()


async def test_what_is_changed_while_somebody_looks_is_looked_at_anew(access: Access) -> None:
    looking = asyncio.create_task(access.projects.find("climate"))
    await asyncio.sleep(0)
    access.projects.forget("climate")
    after = await access.projects.find("climate")
    assert await looking is not after
    assert access.projects.known("climate") is after

"""Projects, members and policies come back as they went in, and only where there is a project."""

import asyncio

import pytest

from terascope.core.errors import Conflict, NotFound
from terascope.core.projects import Role
from terascope.store.allocations import AllocationRow, AllocationStore
from terascope.store.database import Database
from terascope.store.keys import KeyRow, KeyStore
from terascope.store.members import MemberRow, MemberStore
from terascope.store.policies import PolicyRow, PolicyStore
from terascope.store.projects import ProjectRow, ProjectStore
from terascope.store.rights import Rights, rights_of

CLIMATE = ProjectRow("climate", "Regional climate", 5.0)


async def test_every_database_has_the_project_local(database: Database) -> None:
    [local] = await ProjectStore(database).all()
    assert (local.name, local.closed) == ("local", None)
    [policy] = await PolicyStore(database).of("local")
    assert policy == PolicyRow(
        "local", "*", ("query", "embed", "internals", "tune"), ("urgent", "interactive", "batch")
    )
    assert await MemberStore(database).of("local") == []


async def test_a_project_comes_back_as_it_was_and_changes(database: Database) -> None:
    store = ProjectStore(database)
    await store.add(CLIMATE)
    with pytest.raises(Conflict, match="'climate' already"):
        await store.add(CLIMATE)
    closed = ProjectRow("climate", "Weather", 5.0, 9.0)
    await store.put(closed)
    assert await store.get("climate") == closed
    assert [row.name for row in await store.all()] == ["climate", "local"]
    with pytest.raises(NotFound):
        await store.put(ProjectRow("none", "", 0.0))
    assert await store.get("none") is None


async def test_members(database: Database) -> None:
    projects, store = ProjectStore(database), MemberStore(database)
    await projects.add(CLIMATE)
    ada = MemberRow("climate", "ada", Role.MEMBER, 1.0)
    assert await store.put(ada) == ada
    pi = MemberRow("climate", "ada", Role.PI, 7.0)
    assert await store.put(pi) == MemberRow("climate", "ada", Role.PI, 1.0)
    await store.put(MemberRow("local", "ada", Role.AUDITOR, 2.0))
    await store.put(MemberRow("climate", "bob", Role.MEMBER, 3.0))
    assert [row.user_id for row in await store.of("climate")] == ["ada", "bob"]
    assert [(row.project, row.role) for row in await store.of_user("ada")] == [("climate", "pi"), ("local", "auditor")]
    assert [row.name for row in await projects.all(of_user="bob")] == ["climate"]
    await store.remove("climate", "ada")
    with pytest.raises(NotFound, match="'ada' is no member of 'climate'"):
        await store.remove("climate", "ada")
    with pytest.raises(NotFound):
        await store.put(MemberRow("none", "ada", Role.PI, 1.0))


async def test_policies(database: Database) -> None:
    await ProjectStore(database).add(CLIMATE)
    store = PolicyStore(database)
    await store.put(PolicyRow("climate", "m", ("query",), ("batch",)))
    again = PolicyRow("climate", "m", ("query", "tune"), ("urgent", "batch"))
    await store.put(again)
    assert await store.of("climate") == [again]
    await store.remove("climate", "m")
    for call in (store.remove("climate", "m"), store.put(PolicyRow("none", "m", ("query",), ("batch",)))):
        with pytest.raises(NotFound):
            await call


async def test_a_keys_user_is_in_its_project(database: Database) -> None:
    keys, members = KeyStore(database), MemberStore(database)
    row = KeyRow("key_1", "laptop", "tera-1", "a" * 64, ("query",), 1.0, user_id="ada", project="local")
    await keys.add(row, Role.MEMBER)
    await keys.add(KeyRow("key_2", "desk", "tera-2", "b" * 64, ("operator",), 2.0, user_id="ada"), Role.PI)
    assert await keys.by_id("key_1") == row
    assert await members.of("local") == [MemberRow("local", "ada", Role.MEMBER, 1.0)]
    with pytest.raises(NotFound):
        await keys.add(KeyRow("key_3", "x", "tera-3", "c" * 64, ("query",), 1.0, project="none"), Role.MEMBER)
    assert await keys.by_id("key_3") is None


async def test_what_admission_asks_of_several_projects_at_once(database: Database) -> None:
    projects, members, policies = ProjectStore(database), MemberStore(database), PolicyStore(database)
    for name in ("lab", "other"):
        await projects.add(ProjectRow(name, "", 1.0, shares=3))
    await projects.put(ProjectRow("other", "", 1.0, closed=2.0))
    await members.put(MemberRow("lab", "ada", Role.PI, 0.0))
    await members.put(MemberRow("lab", "bob", Role.MEMBER, 0.0))
    await policies.put(PolicyRow("lab", "m", ("query", "embed"), ("batch",)))
    for one, unlimited, ends in (("alloc_1", False, None), ("alloc_2", True, 9.0), ("alloc_3", True, None)):
        row = AllocationRow(one, "lab", unlimited, 0 if unlimited else 5, 1.0, ends, "", float(one[-1]))
        await AllocationStore(database).add(row, f"entry_{one}", "root")
    lab, nobody, other, again = await asyncio.gather(
        *(rights_of(database, name) for name in ("lab", "nobody", "other", "lab"))
    )
    assert lab == again == Rights(
        False, 3, {"ada": Role.PI, "bob": Role.MEMBER},
        (PolicyRow("lab", "m", ("query", "embed"), ("batch",)),),
        (("alloc_2", 1.0, 9.0), ("alloc_3", 1.0, None)),
    )  # fmt: skip
    assert nobody is None
    assert other == Rights(True, 1, {}, (), ())

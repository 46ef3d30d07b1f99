"""Every change of access or money is in the audit log, or it did not happen; nothing in it is ever changed."""

import asyncio

import pytest
from sqlalchemy import Connection, text

from terascope.core.audit import Actor, acting, acting_as
from terascope.core.errors import Conflict, NotFound
from terascope.core.projects import Role
from terascope.store.allocations import AllocationRow, AllocationStore, Transfer
from terascope.store.audit import AuditStore
from terascope.store.database import Database
from terascope.store.members import MemberRow, MemberStore
from terascope.store.projects import ProjectRow, ProjectStore

ADA = Actor("ada", "key_1", "192.0.2.7")


async def test_who_did_what_when_and_from_where(database: Database) -> None:
    with acting_as(ADA):
        await ProjectStore(database).add(ProjectRow("climate", "Weather", 5.0))
        await MemberStore(database).put(MemberRow("climate", "bob", Role.PI, 6.0))
    await MemberStore(database).remove("climate", "bob")
    gone, added, made = await AuditStore(database).newest(10)
    assert (made.action, made.target, made.details) == ("project.create", "climate", {"title": "Weather"})
    assert (made.user_id, made.key_id, made.address) == ("ada", "key_1", "192.0.2.7")
    assert (added.action, added.details) == ("member.put", {"user": "bob", "role": "pi"})
    assert (gone.action, gone.user_id) == ("member.remove", "the gateway itself")
    assert 1.7e9 < made.time <= added.time <= gone.time
    assert await AuditStore(database).newest(1, before=added.id) == [made]
    assert await AuditStore(database).newest(9, user_id="ada", target="climate") == [added, made]


async def test_what_did_not_happen_is_not_in_it(database: Database) -> None:
    row = AllocationRow("alloc_1", "local", False, 5, 0.0, None, "", 1.0)
    await AllocationStore(database).add(row, "entry_1", "root")
    before = await AuditStore(database).newest(10)
    with pytest.raises(Conflict):
        await AllocationStore(database).transfer(Transfer("entry_2", "alloc_1", "alloc_local", 6, 1.0, "root", ""))
    with pytest.raises(NotFound):
        await MemberStore(database).put(MemberRow("none", "bob", Role.PI, 6.0))
    both = await asyncio.gather(
        ProjectStore(database).add(ProjectRow("a", "", 5.0)),
        ProjectStore(database).add(ProjectRow("local", "", 5.0)),
        return_exceptions=True,
    )
    assert isinstance(both[1], Conflict)
    after = await AuditStore(database).newest(10)
    assert [one.target for one in after[: -len(before)]] == ["a"]
    assert before[0].details["amount"] == 5


async def test_each_task_acts_for_itself() -> None:
    async def inner() -> str:
        await asyncio.sleep(0)
        return acting().user_id

    with acting_as(ADA):
        one = asyncio.create_task(inner())
        with acting_as(Actor("bob")):
            other = asyncio.create_task(inner())
    assert (await one, await other, acting().user_id) == ("ada", "bob", "the gateway itself")


@pytest.mark.parametrize("table", ["audit", "entries"])
@pytest.mark.parametrize("statement", ["DELETE FROM {}", "UPDATE {} SET id = 'x'"])
async def test_the_database_itself_refuses_changes(database: Database, table: str, statement: str) -> None:
    row = AllocationRow("alloc_1", "local", False, 5, 0.0, None, "", 1.0)
    await AllocationStore(database).add(row, "entry_1", "root")

    def change(connection: Connection, _: object) -> None:
        connection.execute(text(statement.format(table)))

    with pytest.raises(Exception, match="append-only"):
        await database.writer.submit(change, None)

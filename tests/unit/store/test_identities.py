"""Identities and service accounts, on every database."""

import asyncio

import pytest
from sqlalchemy import func, select

from terascope.core.errors import Conflict, NotFound
from terascope.core.projects import Role
from terascope.store.audit import AuditStore
from terascope.store.database import Database
from terascope.store.identities import IdentityRow, IdentityStore
from terascope.store.keys import KeyRow, KeyStore
from terascope.store.members import MemberStore
from terascope.store.service_accounts import ServiceAccountRow, ServiceAccountStore
from terascope.store.tables import audit

ADA = IdentityRow("sso:Ада \U0001f71a '; --", "https://sso.test", "s" * 1000, {"local": "pi"}, False, 100.0)
NIGHTLY = ServiceAccountRow("local", "nightly", "every night", 5.0, "ada")


def ada(**changes: object) -> IdentityRow:
    return IdentityRow(**{name: getattr(ADA, name) for name in IdentityRow.__slots__} | changes)


async def entries(database: Database) -> int:
    async with database.read() as connection:
        return int((await connection.execute(select(func.count()).select_from(audit))).scalar_one())


async def test_who_came_is_remembered_once(database: Database) -> None:
    store = IdentityStore(database)
    assert await store.get(ADA.user_id) is None
    await asyncio.gather(*(store.seen(ADA) for _ in range(20)))
    assert await store.get(ADA.user_id) == ADA
    [entry] = await AuditStore(database).newest(10, target=ADA.user_id)
    assert entry.details == {"issuer": ADA.issuer, "subject": ADA.subject, "roles": {"local": "pi"}, "operator": False}


@pytest.mark.parametrize(
    "change", [{"roles": {}}, {"operator": True}, {"subject": "another"}, {"issuer": "https://b.test"}]
)
async def test_a_change_is_entered_with_what_was_before(database: Database, change: dict[str, object]) -> None:
    store = IdentityStore(database)
    await store.seen(ADA)
    await store.seen(ada(issued=150.0))
    assert await entries(database) == 1
    await store.seen(ada(issued=200.0, **change))
    assert await store.get(ADA.user_id) == ada(issued=200.0, **change)
    found = await AuditStore(database).newest(10, target=ADA.user_id)
    assert [one.details["roles_before"] for one in found if "roles_before" in one.details] == [{"local": "pi"}]


async def test_a_token_from_before_the_last_change_changes_nothing(database: Database) -> None:
    store = IdentityStore(database)
    await store.seen(ada(issued=200.0))
    await store.seen(ada(roles={}, issued=199.0))
    assert await store.get(ADA.user_id) == ada(issued=200.0)
    assert await entries(database) == 1


async def test_a_service_account_takes_its_membership_and_its_keys_with_it(database: Database) -> None:
    store, keys, members = ServiceAccountStore(database), KeyStore(database), MemberStore(database)
    await store.add(NIGHTLY, Role.AUDITOR)
    assert await store.get("local", "nightly") == NIGHTLY
    assert await store.of("local", "none") == [NIGHTLY]
    assert [(one.user_id, one.role) for one in await members.of("local")] == [("service:local/nightly", Role.AUDITOR)]
    made = {
        name: KeyRow(f"key_{name}", name, "p", name, ("query",), 1.0, user_id=user, confined=True)
        for name, user in (("a", NIGHTLY.user_id), ("b", NIGHTLY.user_id), ("c", "service:local/other"))
    }
    for row in made.values():
        await keys.add(row, Role.MEMBER)
    await keys.revoke("key_b", 2.0)
    await store.remove("local", "nightly", 9.0)
    assert {row.id: row.revoked for row in await keys.all(project="local")} == {
        "key_a": 9.0,
        "key_b": 2.0,
        "key_c": None,
    }
    assert all(row.confined for row in await keys.all())
    assert await keys.all(project="none") == []
    assert [one.user_id for one in await members.of("local")] == ["service:local/other"]
    assert await store.of("local") == []


async def test_what_cannot_be(database: Database) -> None:
    store = ServiceAccountStore(database)
    with pytest.raises(NotFound):
        await store.remove("local", "nightly", 1.0)
    with pytest.raises(NotFound):
        await store.add(ServiceAccountRow("none", "nightly", "", 1.0, "ada"), Role.MEMBER)
    await store.add(NIGHTLY, Role.MEMBER)
    with pytest.raises(Conflict):
        await store.add(NIGHTLY, Role.MEMBER)
    assert await entries(database) == 1

"""From claims to users, groups and projects; and what the audit log says of it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.access.access import Access
from terascope.access.claims import principal_of
from terascope.access.projects import Right
from terascope.core.config import GroupConfig, IssuerConfig
from terascope.core.errors import InvalidToken, NotAllowed, NotFound
from terascope.core.models import Mode, ModelVersion, Task
from terascope.core.projects import Role
from terascope.testing.clock import ManualClock
from terascope.testing.issuer import SmallIssuer

from .conftest import MakeAccess, holder, refused

VERSION = ModelVersion("m", "1", "d", "echo:", "", Task.GENERATE, 0)
GROUPS = [
    GroupConfig("/climate/staff", "climate"),
    GroupConfig("/climate/lead", "climate", "pi"),
    GroupConfig("/ocean", "ocean", "auditor"),
]


def config(**changes: Any) -> IssuerConfig:
    return IssuerConfig(**{"url": "https://a.test", "name": "a", "audience": "us", "groups": GROUPS} | changes)


@pytest.fixture
async def access(trusting: MakeAccess) -> Access:
    made = await trusting(groups=GROUPS, operator_groups=["/admins"], operator_users=["small:root"])
    for name in ("climate", "ocean"):
        await made.projects.create(name)
        await made.projects.put_policy(name, "*", ["query"], ["interactive"])
    return made


# users

HOSTILE = [
    "ada\nroot",
    "ada\r\nSet-Cookie: x=1",
    "ada\0",
    "\tada",
    " ada",
    "ada ",
    "",
    " ",
    "x" * 10_000,
    "a\u202eda",  # which turns the rest of the line around
    "a\u200bda",  # which nobody sees
    "a\u00a0b",
    "\ud800",
    7,
    None,
    True,
    ["ada"],
    {"a": 1},
]


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name)[:20])
async def test_names_that_are_none(trusting: MakeAccess, issuer: SmallIssuer, clock: ManualClock, name: object) -> None:
    access = await trusting(user_claim="preferred_username")
    token = issuer.token(clock.now(), preferred_username=name)
    error = await refused(access, token, "cannot name a user|no signed JWT")
    assert error.message.isprintable()


QUOTED = [
    "'; DROP TABLE identities; --",
    'a"b',
    "a%_\\",
    "o'neil",
    "Ада",
    "愛達",
    "ada@uni.test",
    "a b",
    "🜚",
    "é",
    "e\u0301",
]


@pytest.mark.parametrize("name", QUOTED)
async def test_names_that_are_unusual(trusting: MakeAccess, issuer: SmallIssuer, clock: ManualClock, name: str) -> None:
    access = await trusting(groups=[GroupConfig("g", "climate")])
    await access.projects.create("climate")
    who = await holder(access, issuer.token(clock.now(), sub=name, groups=["g"]))
    assert who.user_id == f"small:{name}"
    assert [row.name for row in await access.projects.visible_to(who)] == ["climate"]
    [entry] = await access.audit.newest(10, target=who.user_id)
    assert (entry.action, entry.details["subject"]) == ("identity.change", name)


@given(st.text(), st.text())
def test_two_users_never_become_one(one: str, other: str) -> None:
    users = []
    for name in (one, other):
        try:
            users.append(principal_of(config(), {"sub": name}).user_id)
        except InvalidToken:
            return
    assert (users[0] == users[1]) is (one == other)


VALUES = st.text() | st.lists(st.text()) | st.none() | st.booleans() | st.integers()


@given(st.text(min_size=1), st.dictionaries(st.sampled_from(["groups", "azp", "client_id", "name", "typ"]), VALUES))
def test_whatever_the_claims_say_a_user_is_of_its_issuer(subject: str, claims: dict[str, Any]) -> None:
    try:
        who = principal_of(config(), {"sub": subject} | claims)
    except (InvalidToken, NotAllowed):
        return
    assert who.user_id == f"a:{subject}"
    assert (who.operator, who.confined, who.scopes) == (False, False, frozenset({"query", "embed"}))


def test_an_email_address_counts_once_it_is_verified() -> None:
    mailed = config(user_claim="email")
    claims: dict[str, Any] = {"sub": "1", "email": "ada@uni.test"}
    assert principal_of(mailed, claims | {"email_verified": True}).user_id == "a:ada@uni.test"
    for verified in ({}, {"email_verified": False}, {"email_verified": "true"}, {"email_verified": None}):
        with pytest.raises(InvalidToken, match="not verified"):
            principal_of(mailed, claims | verified)


# groups


@pytest.mark.parametrize(
    ("claim", "value", "roles"),
    [
        ("groups", ["/climate/staff"], {"climate": Role.MEMBER}),
        ("groups", "/climate/staff", {"climate": Role.MEMBER}),
        ("groups", ["/climate/lead", "/climate/staff", "/ocean"], {"climate": Role.PI, "ocean": Role.AUDITOR}),
        ("groups", ["/climate"], {}),
        ("groups", ["/CLIMATE/STAFF", "/climate/staff "], {}),
        ("groups", [["/ocean"], 7, None, {"/ocean": 1}], {}),
        ("groups", {"/ocean": True}, {}),
        ("groups", 7, {}),
        ("realm_access.roles", ["/ocean"], {"ocean": Role.AUDITOR}),
    ],
)
def test_groups_give_roles(claim: str, value: object, roles: dict[str, Role]) -> None:
    who = principal_of(config(groups_claim=claim), {"sub": "ada", claim: value})
    assert who.roles == roles
    outer, _, inner = claim.partition(".")
    if inner:
        assert principal_of(config(groups_claim=claim), {"sub": "ada", outer: {inner: value}}).roles == roles


async def test_a_group_lets_its_members_into_a_project_as_long_as_tokens_name_it(
    access: Access, issuer: SmallIssuer, clock: ManualClock
) -> None:
    inside = await holder(access, issuer.token(clock.now(), groups=["/climate/staff"]))
    assert inside.project == "climate"
    assert (await access.admit(inside, VERSION, Mode.QUERY)).project == "climate"
    with pytest.raises(NotAllowed):
        await access.admit(inside, VERSION, Mode.EMBED)
    with pytest.raises(NotAllowed):
        await access.projects.require(inside, "climate", Right.MANAGE)
    clock.advance(60)
    left = await holder(access, issuer.token(clock.now(), groups=[]))
    assert left.project == "local"
    for project in ("", "climate"):
        with pytest.raises(NotAllowed):
            await access.admit(left, VERSION, Mode.QUERY, project=project)
    assert await access.projects.visible_to(left) == []
    assert await access.projects.members("climate") == [], "nothing stays behind that would have to be taken back"


async def test_a_role_by_a_group_and_one_as_a_member_add_up(
    access: Access, issuer: SmallIssuer, clock: ManualClock
) -> None:
    await access.projects.put_member("ocean", "small:ada", Role.MEMBER)
    who = await holder(access, issuer.token(clock.now(), groups=["/ocean"]))
    project = await access.projects.require(who, "ocean", Right.AUDIT)
    assert project.roles_of(who) == [Role.MEMBER, Role.AUDITOR]
    assert project.allows(who, Right.USE)
    assert not project.allows(who, Right.MANAGE)


async def test_operators(access: Access, issuer: SmallIssuer, clock: ManualClock) -> None:
    for claims, operator in (({"groups": ["/admins"]}, True), ({"sub": "root"}, True), ({"sub": "admins"}, False)):
        assert (await holder(access, issuer.token(clock.now(), **claims))).operator is operator


async def test_the_audit_log_says_when_access_changes(access: Access, issuer: SmallIssuer, clock: ManualClock) -> None:
    async def come(**claims: Any) -> None:
        clock.advance(60)
        await holder(access, issuer.token(clock.now(), **claims))

    old = issuer.token(clock.now(), groups=["/climate/lead"], exp=int(clock.now()) + 900)
    for groups in (["/climate/staff"], ["/climate/staff"], ["/climate/staff", "no matter"], ["/ocean", "/admins"]):
        await come(groups=groups)
    await holder(access, old)  # issued before the newest: what it allows is not what the user is now
    await come(groups=["/ocean", "/admins"], sub="ada")
    entries = await access.audit.newest(10, target="small:ada")
    entries.sort(key=lambda entry: "roles_before" not in entry.details)  # made in the same millisecond, in any order
    assert [entry.details["roles"] for entry in entries] == [{"ocean": "auditor"}, {"climate": "member"}]
    assert entries[0].details["roles_before"] == {"climate": "member"}
    assert (entries[0].details["operator"], entries[1].details["operator"]) == (True, False)
    assert {entry.details["issuer"] for entry in entries} == {issuer.url}


async def test_the_audit_log_says_when_a_name_goes_to_somebody_else(
    trusting: MakeAccess, issuer: SmallIssuer, clock: ManualClock
) -> None:
    access = await trusting(user_claim="preferred_username")
    for subject in ("1", "2"):
        await holder(access, issuer.token(clock.now(), sub=subject, preferred_username="ada"))
    entries = await access.audit.newest(10, target="small:ada")
    assert {(one.details.get("subject_before"), one.details["subject"]) for one in entries} == {(None, "1"), ("1", "2")}


# service accounts


async def test_a_clients_token_is_a_service_account_while_there_is_one(
    trusting: MakeAccess, issuer: SmallIssuer, clock: ManualClock
) -> None:
    access = await trusting(clients={"robot-7": "climate/nightly"}, groups=[GroupConfig("g", "ocean", "pi")])
    for name in ("climate", "ocean"):
        await access.projects.create(name)
        await access.projects.put_policy(name, "*", ["query"], ["interactive"])
    root = await holder(access, access.local_token)
    token = issuer.token(clock.now(), sub="robot-7", client_id="robot-7", groups=["g"])
    await refused(access, token, "no service account service:climate/nightly any more")
    await access.issuance.create_account(root, "climate", "nightly", Role.MEMBER)
    who = await holder(access, token)
    assert (who.user_id, who.confined, who.roles) == ("service:climate/nightly", True, {})
    assert (await access.admit(who, VERSION, Mode.QUERY)).project == "climate"
    with pytest.raises(NotAllowed):
        await access.admit(who, VERSION, Mode.QUERY, project="ocean")
    with pytest.raises(NotFound):
        await access.projects.require(who, "ocean", Right.SEE)
    await access.issuance.remove_account(root, "climate", "nightly")
    await refused(access, token, "any more; ask a PI of climate")

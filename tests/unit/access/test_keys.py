"""Keys: shown once, kept as hashes, void when revoked or expired."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from terascope.access.access import LOCAL_KEY_ID, Access
from terascope.access.scopes import SCOPES
from terascope.core.errors import BadRequest, NotAllowed, NotAuthenticated, NotFound
from terascope.core.models import Mode, ModelVersion, Task
from terascope.store.database import Database
from terascope.testing.clock import ManualClock
from terascope.testing.databases import new_sqlite

VERSION = ModelVersion("m", "1", "d", "echo:", "", Task.GENERATE, 0)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def access(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Access]:
    database = await Database.open(new_sqlite(tmp_path / "keys.db"))
    yield Access(database, clock)
    await database.aclose()


async def test_a_key_identifies_its_holder(access: Access) -> None:
    key, row = await access.keys.create("lab", ["query"])
    who = await access.identify(f"Bearer {key}")
    assert (who.key_id, who.name, who.scopes) == (row.id, "lab", frozenset({"query"}))
    assert not who.operator


async def test_the_key_itself_is_nowhere_in_the_database(access: Access, tmp_path: Path) -> None:
    key, row = await access.keys.create("lab", ["query"])
    stored = _everything_in(tmp_path)
    assert row.sha256.encode() in stored
    assert key.encode() not in stored
    assert key.startswith(row.prefix)


def _everything_in(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.iterdir())


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic abc", "Bearer wrong", "Bearer tera-\u00e9", "bearer\t"]
)
async def test_no_valid_key_no_entry(access: Access, header: str) -> None:
    with pytest.raises(NotAuthenticated):
        await access.identify(header)


async def test_a_revoked_key_is_void_at_once(access: Access) -> None:
    key, row = await access.keys.create("lab", ["query"])
    await access.identify(f"Bearer {key}")
    assert (await access.keys.revoke(row.id)).revoked is not None
    with pytest.raises(NotAuthenticated, match="revoked"):
        await access.identify(f"Bearer {key}")
    assert (await access.keys.revoke(row.id)).revoked is not None
    with pytest.raises(NotFound):
        await access.keys.revoke("key_none")


async def test_a_key_expires(access: Access, clock: ManualClock) -> None:
    key, _ = await access.keys.create("lab", ["query"], expires=clock.now() + 60)
    await access.identify(f"Bearer {key}")
    clock.advance(61)
    with pytest.raises(NotAuthenticated, match="expired"):
        await access.identify(f"Bearer {key}")


async def test_revocation_by_another_gateway_is_seen_within_seconds(access: Access, clock: ManualClock) -> None:
    key, row = await access.keys.create("lab", ["query"])
    await access.identify(f"Bearer {key}")
    await access.keys._store.revoke(row.id, clock.now())
    clock.advance(6)
    with pytest.raises(NotAuthenticated):
        await access.identify(f"Bearer {key}")


async def test_the_local_operator(access: Access) -> None:
    who = await access.identify(f"Bearer {access.local_token}")
    assert who.operator
    assert who.key_id == LOCAL_KEY_ID


@pytest.mark.parametrize("name", ["", "  ", "x" * 201, "a\nb", "\x00"])
async def test_bad_names_are_refused(access: Access, name: str) -> None:
    with pytest.raises(BadRequest):
        await access.keys.create(name, ["query"])


@pytest.mark.parametrize("scopes", [[], ["root"], ["query", "Query"]])
async def test_bad_scopes_are_refused(access: Access, scopes: list[str]) -> None:
    with pytest.raises(BadRequest):
        await access.keys.create("lab", scopes)


@pytest.mark.parametrize("expires", [-1.0, 0.0, 1e12, float("nan"), float("inf")])
async def test_bad_times_are_refused(access: Access, expires: float) -> None:
    with pytest.raises(BadRequest):
        await access.keys.create("lab", ["query"], expires=expires)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("mode", Mode)
async def test_every_scope_in_every_mode(access: Access, scope: str, mode: Mode) -> None:
    key, _ = await access.keys.create("lab", [scope])
    who = await access.identify(f"Bearer {key}")
    if scope in (mode, "operator"):
        assert (await access.admit(who, VERSION, mode)).model == "m@1"
    else:
        with pytest.raises(NotAllowed):
            await access.admit(who, VERSION, mode)

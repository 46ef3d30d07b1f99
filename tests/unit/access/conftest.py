"""A small issuer whose keys the tests hold, and rooms that take its tokens."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from terascope.access.access import Access
from terascope.access.principal import Principal
from terascope.core.errors import InvalidToken, ServiceError
from terascope.store.database import Database
from terascope.testing.clock import ManualClock
from terascope.testing.databases import new_sqlite
from terascope.testing.issuer import SmallIssuer

MakeAccess = Callable[..., Awaitable[Access]]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def issuer() -> Iterator[SmallIssuer]:
    with SmallIssuer() as small:
        yield small


@pytest.fixture
async def trusting(tmp_path: Path, clock: ManualClock, issuer: SmallIssuer) -> AsyncIterator[MakeAccess]:
    """Makes the room over one database, with the issuer configured as the test likes."""
    async with AsyncExitStack() as stack:
        database = await Database.open(new_sqlite(tmp_path / "tokens.db"))
        stack.push_async_callback(database.aclose)

        async def make(**changes: Any) -> Access:
            return Access(database, clock, issuers=[issuer.config(**changes)])

        yield make


async def holder(access: Access, token: str) -> Principal:
    return await access.identify(f"Bearer {token}")


async def refused(access: Access, token: str, why: str, kind: type[ServiceError] = InvalidToken) -> ServiceError:
    """The error for `token`, whose message has `why` in it."""
    with pytest.raises(kind, match=why) as caught:
        await holder(access, token)
    return caught.value

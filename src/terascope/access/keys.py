"""API keys: made once, shown once, kept as hashes.

A key has 256 random bits, so a plain sha256 cannot be turned back by guessing (NIST SP 800-63B, 5.1.2.2 asks for
slow hashes only below 112 bits), and looking it up by its hash tells an attacker nothing by its timing.
"""

import asyncio
import hashlib
import hmac
import secrets
from collections import OrderedDict

from terascope.access.principal import Principal
from terascope.access.projects import Projects
from terascope.access.scopes import OPERATOR, checked
from terascope.core.clock import Clock
from terascope.core.errors import BadRequest, NotAuthenticated, NotFound
from terascope.core.ids import new_id
from terascope.core.projects import LOCAL_PROJECT, Role, checked_text
from terascope.store.keys import KeyRow, KeyStore

PREFIX = "tera-"
_SHOWN = 10  # characters of a key that listings show, to recognise it by
_CACHE_S = 5.0  # another gateway's revocation is seen within this time; one's own at once
_CACHED = 20_000


class Keys:
    """Creates, lists, revokes and recognises keys."""

    def __init__(self, store: KeyStore, clock: Clock, projects: Projects) -> None:
        self._store = store
        self._projects = projects
        self._clock = clock
        self._cache: OrderedDict[str, tuple[float, KeyRow, Principal]] = OrderedDict()
        self._loading: dict[str, asyncio.Future[tuple[float, KeyRow, Principal]]] = {}

    async def create(
        self,
        name: str,
        scopes: list[str],
        *,
        expires: float | None = None,
        user: str = "",
        project: str = "",
        confined: bool = False,
    ) -> tuple[str, KeyRow]:
        """Make a key; return it with its row. The key cannot be had again.

        `expires` is a time (seconds since the epoch). `user` is whose key it is, by default `name`; `project` pays
        unless a request says otherwise, by default `local`, and has the user as a member on return; with `confined`
        the key works in no other, whatever else the user is a member of. Raises `BadRequest` for an unknown scope, an
        empty or overlong name, or a time that has passed, `NotFound` for an unknown project.
        """
        name = name.strip()
        if not name or len(name) > 200 or not name.isprintable():
            raise BadRequest("a key needs a printable name of at most 200 characters", param="name")
        if expires is not None and not self._clock.now() < expires < 1e11:
            raise BadRequest("`expires` must be a time to come, in seconds since 1970", param="expires")
        key = PREFIX + secrets.token_urlsafe(32)
        row = KeyRow(
            new_id("key"), name, key[:_SHOWN], _hash(key), checked(scopes), self._clock.now(), expires,
            user_id=checked_text(user or name, "user"), project=project or LOCAL_PROJECT, confined=confined,
        )  # fmt: skip
        await self._store.add(row, Role.PI if OPERATOR in row.scopes else Role.MEMBER)
        self._projects.forget(row.project)
        return key, row

    async def list(self, *, project: str = "") -> list[KeyRow]:
        """Return every key, or those of one project, oldest first."""
        return await self._store.all(project=project)

    async def get(self, key_id: str) -> KeyRow | None:
        """Return the key of that id."""
        return await self._store.by_id(key_id)

    def forget(self) -> None:
        """Look at every key anew the next time."""
        self._cache.clear()

    async def revoke(self, key_id: str) -> KeyRow:
        """Make a key void from now on; one that is already void stays so.

        Raises `NotFound` when there is no such key.
        """
        await self._store.revoke(key_id, self._clock.now())
        self.forget()
        if row := await self._store.by_id(key_id):
            return row
        raise NotFound(f"there is no key {key_id[:60]!r}; `terascope keys list` shows them")

    async def again(self, key_id: str) -> Principal:
        """Return who holds the key of that id, for work that was asked for with it.

        Raises `NotAuthenticated` when it is void by now, or is no key.
        """
        row = await self._store.by_id(key_id)
        if row is None:
            raise NotAuthenticated("the key or login that asked for this is not known any more; ask again")
        _check_valid(row, self._clock.now())
        return _principal(row)

    async def identify(self, token: str) -> Principal:
        """Return who holds `token`. Raises `NotAuthenticated` when nobody does."""
        sha256 = _hash(token)
        found = self._cache.get(sha256)
        if found is None or self._clock.monotonic() - found[0] > _CACHE_S:
            found = await self._load_once(sha256)
        _, row, who = found
        _check_valid(row, self._clock.now())
        return who

    async def _load_once(self, sha256: str) -> tuple[float, KeyRow, Principal]:
        """Requests that come together with one key share one look into the store."""
        loading = self._loading.get(sha256)
        if loading is None:
            loading = self._loading[sha256] = asyncio.ensure_future(self._load(sha256))
            loading.add_done_callback(lambda _: self._loading.pop(sha256, None))
        return await asyncio.shield(loading)

    async def _load(self, sha256: str) -> tuple[float, KeyRow, Principal]:
        row = await self._store.by_sha256(sha256)
        # the row was found by its hash; this compares without telling where two hashes differ
        if row is None or not hmac.compare_digest(row.sha256, sha256):
            self._cache.pop(sha256, None)
            raise NotAuthenticated("this API key is not known here; ask an operator for one")
        found = self._cache[sha256] = (self._clock.monotonic(), row, _principal(row))
        self._cache.move_to_end(sha256)
        if len(self._cache) > _CACHED:
            self._cache.popitem(last=False)
        return found


def _principal(row: KeyRow) -> Principal:
    return Principal(
        row.id, row.name, frozenset(row.scopes), row.user_id, row.project, confined=row.confined, expires=row.expires
    )


def _check_valid(row: KeyRow, now: float) -> None:
    if row.revoked is not None:
        raise NotAuthenticated("this API key has been revoked; ask an operator for a new one")
    if row.expires is not None and row.expires <= now:
        raise NotAuthenticated("this API key has expired; ask an operator for a new one")


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()

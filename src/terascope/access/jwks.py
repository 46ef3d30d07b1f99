"""The public keys of one issuer: found by discovery, kept for a while, fetched anew when one is not known.

A request waits for the issuer only when its token is signed with a key that is not known yet. Whoever sends tokens
with invented key ids causes one look in `jwks_retry_s` seconds, however many they are.
"""

import asyncio
import logging
from typing import Any

import httpx
import orjson
from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry, Key
from joserfc.jws import JWSRegistry
from pydantic import ValidationError

from terascope.core.clock import Clock
from terascope.core.config import IssuerConfig
from terascope.core.errors import InvalidToken, IssuerUnavailable
from terascope.core.urls import is_loopback, is_private
from terascope.protocol.oidc import ProviderMetadata, discovery_url

log = logging.getLogger(__name__)
_MOST_ANSWER = 512 << 10  # bytes
_MOST_KEYS = 100
_MOST_ABSENT = 1000  # keys that were looked for in vain
_PATIENCE_S = 10.0  # that an answer of the issuer may take, to its last byte
_SHORTEST_MODULUS = 342  # characters of base64url: 2048 bits, below which RSA is not safe (NIST SP 800-131A)


class IssuerKeys:
    """Finds keys by their id."""

    def __init__(self, config: IssuerConfig, registry: JWSRegistry, clock: Clock) -> None:
        self._config = config
        self._registry = registry
        self._clock = clock
        self._keys: list[Key] = []
        self._ids: set[str | None] = set()
        self._absent: set[tuple[str, str]] = set()  # id and algorithm of keys that were looked for in vain
        self._fetched = -float("inf")  # monotonic: when the keys came,
        self._tried = -float("inf")  # and when the issuer was last asked for them
        self._fetching: asyncio.Task[None] | None = None

    def trusts(self, kid: str) -> bool:
        """Whether the key is known to be the issuer's now, without waiting or asking."""
        return kid in self._ids and self._age() <= self._config.jwks_cache_s

    async def key(self, kid: str, algorithm: str) -> Key:
        """Return the key `kid`, or the only one there is for `algorithm` where `kid` is empty.

        While the issuer cannot be reached, keys from before are returned for `jwks_stale_s` seconds. Raises
        `InvalidToken` when the issuer has no such key, `IssuerUnavailable` when that cannot be found out now.
        """
        known = self._find(kid, algorithm) is not None and self._age() <= self._config.jwks_stale_s
        if self._age() > self._config.jwks_cache_s or not (known or (kid, algorithm) in self._absent):
            await self._look(kid, algorithm, wait=not known)
        key = self._find(kid, algorithm)
        if key is not None and self._age() <= self._config.jwks_stale_s:
            return key
        if (kid, algorithm) in self._absent and self._age() <= self._config.jwks_cache_s:
            raise InvalidToken("this token is signed with a key that its issuer does not have; get a new one")
        wait = self._config.jwks_retry_s - (self._clock.monotonic() - self._tried)
        raise IssuerUnavailable(
            f"the issuer {self._config.name} cannot be asked about this token's key just now; try again. API keys, and "
            "tokens whose key is known, go on working",
            retry_after=max(1.0, wait),
        )

    def _age(self) -> float:
        return self._clock.monotonic() - self._fetched

    def _find(self, kid: str, algorithm: str) -> Key | None:
        fitting = [one for one in self._keys if (not kid or one.kid == kid) and self._fits(one, algorithm)]
        return fitting[0] if fitting and (kid or len(fitting) == 1) else None

    def _fits(self, key: Key, algorithm: str) -> bool:
        try:
            self._registry.get_alg(algorithm).check_key(key)
        except JoseError:
            return False
        return True

    async def _look(self, kid: str, algorithm: str, *, wait: bool) -> None:
        """Fetch the keys unless that was tried just before; with `wait`, return when it is done."""
        now = self._clock.monotonic()
        if self._fetching is None and now - self._tried >= self._config.jwks_retry_s:
            self._tried = now
            self._fetching = asyncio.create_task(self._fetch())
        if self._fetching is not None and wait:
            fetched = self._fetched
            await asyncio.shield(self._fetching)
            found = self._find(kid, algorithm) is not None
            if self._fetched > fetched and not found and len(self._absent) < _MOST_ABSENT:
                self._absent.add((kid, algorithm))

    async def _fetch(self) -> None:
        try:
            metadata = await self._discover()
            keys = _keys(await _get(metadata.jwks_uri))
        except IssuerUnavailable as error:
            log.warning("no keys of the issuer %s: %s", self._config.name, error.detail)
        else:
            self._keys, self._ids, self._absent = keys, {one.kid for one in keys}, set()
            self._fetched = self._clock.monotonic()
        finally:
            self._fetching = None

    async def _discover(self) -> ProviderMetadata:
        try:
            metadata = ProviderMetadata.model_validate(await _get(discovery_url(self._config.url)))
        except ValidationError:
            raise _unavailable("its discovery document is none") from None
        if metadata.issuer != self._config.url:
            raise _unavailable(f"its discovery document is of {metadata.issuer[:200]!r}")
        if not is_private(metadata.jwks_uri) or is_loopback(metadata.jwks_uri) > is_loopback(self._config.url):
            raise _unavailable("its jwks_uri is not one of https")
        return metadata


async def _get(url: str) -> dict[str, Any]:
    """The JSON object at `url`. Raises `IssuerUnavailable`; is led nowhere else."""
    headers = {"accept": "application/json", "accept-encoding": "identity"}
    try:
        async with (
            asyncio.timeout(_PATIENCE_S),
            httpx.AsyncClient(headers=headers, timeout=_PATIENCE_S, trust_env=not is_loopback(url)) as http,
            http.stream("GET", url) as answer,
        ):
            if answer.status_code != 200:
                raise _unavailable(f"HTTP {answer.status_code} at {url}")
            found = orjson.loads(await _body(answer))
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as error:
        raise _unavailable(f"{url}: {str(error) or type(error).__name__}") from error
    if not isinstance(found, dict):
        raise _unavailable(f"{url} is no JSON object")
    return found


async def _body(answer: httpx.Response) -> bytes:
    """As it comes: what is packed could be of any size once it is unpacked."""
    body = bytearray()
    async for part in answer.aiter_raw():
        body += part
        if len(body) > _MOST_ANSWER:
            raise _unavailable(f"more than {_MOST_ANSWER} bytes at {answer.url}")
    return bytes(body)


def _keys(found: dict[str, Any]) -> list[Key]:
    """The keys of a JWK set that can verify; others in it are none of our business (RFC 7517, section 5)."""
    entries = found.get("keys")
    if not isinstance(entries, list):
        raise _unavailable("its JWK set has no keys")
    return [key for one in entries[:_MOST_KEYS] if (key := _key(one)) is not None]


def _key(entry: Any) -> Key | None:
    if not isinstance(entry, dict) or entry.get("kty") not in ("RSA", "EC", "OKP") or entry.get("use") == "enc":
        return None
    if entry["kty"] == "RSA" and len(str(entry.get("n"))) < _SHORTEST_MODULUS:
        return None
    try:
        return JWKRegistry.import_key(entry)
    except (JoseError, ValueError, TypeError, KeyError):
        return None


def _unavailable(detail: str) -> IssuerUnavailable:
    return IssuerUnavailable("the issuer of this token cannot be asked just now; try again", detail=detail)

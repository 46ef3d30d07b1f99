"""Tokens of OpenID Connect issuers: verified once, then known by their hash until they expire.

What is forged is found out by joserfc; what is taken, from whom and for whom, is said here. A bearer token may be used
until it expires by whoever holds it: `jti` is not for one use, and nothing is asked of the issuer in between.
"""

import hashlib
import logging
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
from joserfc import jws, jwt
from joserfc.errors import ClaimError, ExpiredTokenError, JoseError, UnsupportedAlgorithmError, UnsupportedHeaderError

from terascope.access.claims import check_kind, principal_of
from terascope.access.issuers import checked_issuers
from terascope.access.jwks import IssuerKeys
from terascope.access.principal import Principal
from terascope.access.projects import Projects
from terascope.core.clock import Clock, SteadyTime
from terascope.core.config import IssuerConfig
from terascope.core.errors import InvalidToken
from terascope.store.identities import IdentityRow, IdentityStore

log = logging.getLogger(__name__)
MOST_BYTES = 16 << 10  # of a token; groups of a thousand projects fit
_CACHED = 20_000
_LATEST = 1e11  # seconds since the epoch; what claims to be valid longer is not
_BROKEN = (JoseError, ValueError, TypeError, AttributeError, RecursionError)  # what parsing strangers' bytes raises


class _Registry(jws.JWSRegistry):
    """The signatures that are configured, and no others whatever the library recommends."""

    max_header_length = MOST_BYTES
    max_signature_length = 2048

    def get_alg(self, name: str) -> Any:
        if name not in (self.allowed or ()):
            raise UnsupportedAlgorithmError(f"Algorithm of {name[:20]!r} is not allowed")
        return self.algorithms[name]

    def check_header(self, header: dict[str, Any]) -> None:
        super().check_header(header)
        if "crit" in header or "b64" in header:  # extensions that change what is signed
            raise UnsupportedHeaderError("'crit' and 'b64' are not supported")


class _Issuer:
    """One issuer: its configuration, its keys, and what its tokens must say."""

    def __init__(self, config: IssuerConfig, clock: Clock, time: SteadyTime) -> None:
        self.config = config
        self.registry = _Registry(algorithms=config.algorithms, strict_check_header=False)
        self.keys = IssuerKeys(config, self.registry, clock)
        self.claims = jwt.JWTClaimsRegistry(
            # rounded up, so that nothing is taken longer than it may be
            now=lambda: math.ceil(time.now()), leeway=int(config.leeway_s),
            iss={"essential": True, "value": config.url}, aud={"essential": True, "value": config.audience},
            sub={"essential": True}, exp={"essential": True},
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Verified:
    """A token that was verified: by which key, until when it may be taken, whose it is."""

    issuer: _Issuer
    kid: str
    algorithm: str
    ends: float
    who: Principal


class Tokens:
    """Recognises the holders of tokens."""

    def __init__(
        self, issuers: Sequence[IssuerConfig], identities: IdentityStore, projects: Projects, clock: Clock
    ) -> None:
        """Ask nothing of any issuer yet. Raises `ConfigError`."""
        self._time = SteadyTime(clock)
        self._issuers = {one.url: _Issuer(one, clock, self._time) for one in checked_issuers(issuers)}
        self._identities = identities
        self._projects = projects
        self._cache: OrderedDict[str, _Verified] = OrderedDict()

    async def identify(self, token: str) -> Principal:
        """Return who holds `token`, a signed JWT.

        Raises `InvalidToken`, `NotAllowed` for a client that is no service account, and `IssuerUnavailable` when the
        token's key is not known and the issuer cannot be asked for it.
        """
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
        found = self._cache.get(digest)
        if found is None or found.ends <= self._time.now():
            self._cache.pop(digest, None)
            found = self._cache[digest] = await self._verify(token)
            if len(self._cache) > _CACHED:
                self._cache.popitem(last=False)
        elif not found.issuer.keys.trusts(found.kid):
            await found.issuer.keys.key(found.kid, found.algorithm)
        if found.who.confined:
            await self._check_account(found.who)
        return found.who

    async def _verify(self, token: str) -> _Verified:
        header, issuer = self._read(token)
        kid, algorithm = header.get("kid", ""), header["alg"]
        key = await issuer.keys.key(kid, algorithm)
        try:
            claims = jwt.decode(token, key, registry=issuer.registry).claims
            issuer.claims.validate(claims)
        except ClaimError as error:
            raise self._wrong_claim(error, issuer.config) from None
        except _BROKEN as error:
            raise _malformed(error) from None
        if claims["exp"] > _LATEST:
            raise InvalidToken("this token never expires, so it is not taken; get one that does")
        check_kind(issuer.config, header, claims)
        who = replace(principal_of(issuer.config, claims), expires=float(claims["exp"]))
        await self._identities.seen(_identity(issuer.config, claims, who))
        return _Verified(issuer, kid, algorithm, claims["exp"] + issuer.config.leeway_s, who)

    def _read(self, token: str) -> tuple[dict[str, Any], _Issuer]:
        """The token's header and issuer; nothing of it is verified yet."""
        if len(token) > MOST_BYTES:
            raise InvalidToken(f"this token is longer than {MOST_BYTES} characters, the most that is taken")
        try:
            parts = jws.extract_compact(token.encode("ascii"), registry=_Registry())
            claims = orjson.loads(parts.payload)
            issuer = self._issuers.get(str(claims.get("iss")))
            if issuer is None:
                raise InvalidToken(
                    "this token is of an issuer that is not known here; GET /.well-known/terascope says which are"
                )
            header = parts.headers()
            issuer.registry.check_header(header)
            issuer.registry.get_alg(header["alg"])
        except _BROKEN as error:
            raise _malformed(error) from None
        return header, issuer

    def _wrong_claim(self, error: ClaimError, config: IssuerConfig) -> InvalidToken:
        if self._time.set_back > config.leeway_s:
            log.warning("the clock was set back by %.0f s since the start; tokens are judged as if it was not, until "
                        "the next start", self._time.set_back)  # fmt: skip
        told = {
            "aud": f"is meant for another service: its `aud` must name {config.audience}",
            "nbf": "is not valid yet; look at the clock of this machine and of the issuer",
            "iat": "was issued in the future; look at the clock of this machine and of the issuer",
        }
        expired = "has expired; get a new one, for example with `terascope login`"
        why = expired if isinstance(error, ExpiredTokenError) else told.get(error.claim)
        return InvalidToken(f"this token {why or f'lacks a proper `{error.claim}`'}", detail=error.description)

    async def _check_account(self, who: Principal) -> None:
        project = self._projects.known(who.project) or await self._projects.find(who.project)
        if project is None or who.user_id not in project.roles:
            raise InvalidToken(f"there is no service account {who.user_id} any more; ask a PI of {who.project}")


def _identity(config: IssuerConfig, claims: Mapping[str, Any], who: Principal) -> IdentityRow:
    roles = {project: role.value for project, role in sorted(who.roles.items())}
    issued = max(0, claims.get("iat", 0))  # its size was judged already
    return IdentityRow(who.user_id, config.url, claims["sub"], roles, who.operator, float(issued))


def _malformed(error: Exception) -> InvalidToken:
    detail = error.description if isinstance(error, JoseError) else type(error).__name__
    return InvalidToken("this token is no signed JWT that is taken here; get a new one", detail=detail)

"""Who may do it: identification and admission, the first and third hop of every request."""

import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from terascope.access.accounts import Accounts
from terascope.access.allocations import Allocations
from terascope.access.days import Days
from terascope.access.issuance import Issuance
from terascope.access.keys import Keys
from terascope.access.limits import Limits
from terascope.access.principal import Grant, Principal
from terascope.access.projects import Projects
from terascope.access.reservations import Reservations
from terascope.access.scopes import OPERATOR
from terascope.core.clock import Clock
from terascope.core.config import AccountingConfig, IssuerConfig, LimitsConfig
from terascope.core.errors import NotAuthenticated
from terascope.core.models import Mode, ModelVersion
from terascope.core.projects import Qos
from terascope.store.audit import AuditStore
from terascope.store.database import Database
from terascope.store.identities import IdentityStore
from terascope.store.keys import KeyStore
from terascope.store.runs import RunStore
from terascope.store.service_accounts import ServiceAccountStore

if TYPE_CHECKING:
    from terascope.access.tokens import Tokens

LOCAL_KEY_ID = "key_local"
LOCAL_USER = "local operator"
_LOCAL = Principal(LOCAL_KEY_ID, "local operator", frozenset({OPERATOR}), LOCAL_USER)
_REMEMBERED = 10_000  # rights that were given of late


@dataclass(frozen=True, slots=True)
class _Granted:
    """A right that was given once, and need not be looked into again while all it rests on is the same.

    It is for the very same caller and model version: either is another object once it changes. It is void after the
    next of the `changes` of projects, and `until` (monotonic) it holds.
    """

    version: ModelVersion
    grant: Grant
    changes: int
    until: float


class Access:
    """Identifies callers and admits their requests."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        config: AccountingConfig | None = None,
        limits: LimitsConfig | None = None,
        issuers: Sequence[IssuerConfig] = (),
    ) -> None:
        self.limits = Limits(limits or LimitsConfig(), clock)
        self.days = Days(limits or LimitsConfig(), clock, RunStore(database).traced)
        self.projects = Projects(database, clock)
        self._clock = clock
        self._granted: dict[tuple[str, str, Mode, Qos, frozenset[Mode], str], _Granted] = {}
        self.accounts = Accounts(database, self.projects, config or AccountingConfig(), clock)
        self.audit = AuditStore(database)
        self.allocations = Allocations(database, self.projects, self.accounts, clock)
        self.reservations = Reservations(database, self.projects, clock)
        self.keys = Keys(KeyStore(database), clock, self.projects)
        self.issuance = Issuance(self.keys, ServiceAccountStore(database), self.projects, clock)
        self._tokens = _tokens(database, clock, self.projects, issuers)
        self.local_token = secrets.token_urlsafe(32)
        """The CLI's key on the gateway's own machine: made at every start, never stored in the database."""

    async def identify(self, authorization: str) -> Principal:
        """Return the caller that an `Authorization` header names, by an API key or by a token of an issuer.

        Raises `NotAuthenticated` when there is no bearer token or it is not valid, and what `Tokens.identify` does.
        """
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise NotAuthenticated("no API key; send it as `Authorization: Bearer KEY`")
        if hmac.compare_digest(token.encode("utf-8", "surrogateescape"), self.local_token.encode()):
            return _LOCAL
        if self._tokens is not None and "." in token:  # as every JWT has it, and no API key
            return await self._tokens.identify(token)
        return await self.keys.identify(token)

    async def again(self, key_id: str) -> Principal:
        """Return the caller whose key has that id, for work that was asked for with it.

        Raises `NotAuthenticated` when the key is void by now. A token of an issuer cannot be found again.
        """
        return _LOCAL if key_id == LOCAL_KEY_ID else await self.keys.again(key_id)

    async def admit(
        self,
        principal: Principal,
        version: ModelVersion,
        mode: Mode,
        *,
        project: str = "",
        qos: Qos = Qos.INTERACTIVE,
        also: frozenset[Mode] = frozenset(),
    ) -> Grant:
        """Return the right to one request in `mode`, and in those of `also`, paid by `project` or the key's own.

        Nothing is held yet: that is for `accounts.hold`. Raises `NotAllowed`.
        """
        asked = (principal.key_id, version.public_name, mode, qos, also, project)
        before = self._granted.get(asked)
        if (
            before is not None
            and before.version is version
            and before.grant.principal is principal
            and before.changes == self.projects.changes
            and before.until > self._clock.monotonic()
        ):
            return before.grant
        changes = self.projects.changes
        grant, until = await self._admit(principal, version, mode, qos, {mode, *also}, project or principal.project)
        if len(self._granted) >= _REMEMBERED:
            self._granted.clear()
        self._granted[asked] = _Granted(version, grant, changes, until)
        return grant

    async def _admit(
        self, principal: Principal, version: ModelVersion, mode: Mode, qos: Qos, modes: set[Mode], project: str
    ) -> tuple[Grant, float]:
        """The right, and until when (monotonic) what it rests on need not be looked at again."""
        for one in sorted(modes):
            principal.require(one)
        payer = await self.projects.for_use(principal, project)
        for one in sorted(modes):
            payer.check(version, one, qos)
        paid = (payer.name, qos, version.price, payer.shares, payer.unlimited)
        return Grant(principal, mode, version.public_name, *paid), payer.until


def _tokens(database: Database, clock: Clock, projects: Projects, issuers: Sequence[IssuerConfig]) -> "Tokens | None":
    """Loaded only where there is an issuer: cryptography takes its time."""
    if not issuers:
        return None
    from terascope.access.tokens import Tokens

    return Tokens(issuers, IdentityStore(database), projects, clock)

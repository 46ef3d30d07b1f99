"""OAuth 2.0 from the client's side: signing in by device code (RFC 8628), renewing and revoking what that gave."""

import base64
import binascii
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import httpx
import orjson
from pydantic import BaseModel, ValidationError

from terascope.client.errors import error_from, stranger, told
from terascope.client.logins import Login
from terascope.core.errors import ConfigError, IssuerUnavailable, NotAuthenticated, NotFound, ServiceError
from terascope.core.urls import is_loopback, is_private
from terascope.protocol.identity import LoginOption, LoginOptions
from terascope.protocol.oidc import DeviceCode, OAuthError, ProviderMetadata, TokenAnswer, discovery_url

T = TypeVar("T", bound=BaseModel)
_DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
_TIMEOUT_S = 30.0
_SLOWER_S = 5.0  # more between polls when the issuer says `slow_down` (RFC 8628, section 3.5)
_SHORTEST_S = 60.0  # that a token is taken to last when nothing says how long


@dataclass(frozen=True, slots=True)
class Pending:
    """A login that waits for its user: at which gateway, with which client at which issuer, by which code."""

    url: str
    option: LoginOption
    metadata: ProviderMetadata
    code: DeviceCode


def login_option(url: str, name: str = "") -> LoginOption:
    """Ask the gateway at `url` where its users sign in; with several issuers `name` chooses.

    Raises `NotFound` when there is none of that name, `ConfigError` when a token would be sent there in the clear.
    """
    if not is_private(url):
        raise ConfigError(f"{url} is not https: whoever sees the traffic could use your token; use an https URL")
    with told(url):
        answer = httpx.get(f"{url}/.well-known/terascope", timeout=_TIMEOUT_S, trust_env=not is_loopback(url))
    if not answer.is_success:
        raise error_from(answer, url)
    try:
        options = LoginOptions.model_validate_json(answer.content).login
    except ValidationError:
        raise stranger(url, "an unknown answer to GET /.well-known/terascope") from None
    fitting = [one for one in options if name in ("", one.name)]
    if not options:
        raise NotFound(f"{url} has no login; ask an operator for an API key, and set TERASCOPE_API_KEY")
    if len(fitting) != 1:
        raise NotFound(f"choose the issuer with --issuer: {', '.join(one.name for one in options)}")
    return fitting[0]


def begin(url: str, option: LoginOption) -> Pending:
    """Ask the issuer for a code that the user enters there. Raises `IssuerUnavailable`, `ConfigError`."""
    metadata = _discover(option)
    form = {"client_id": option.client_id, "scope": " ".join(option.scopes), "resource": option.resource}
    answer = _post(metadata.device_authorization_endpoint, form)
    if not answer.is_success:
        raise _refusal(answer, option.name)
    return Pending(url, option, metadata, _read(DeviceCode, answer))


def finish(
    pending: Pending,
    *,
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
) -> Login:
    """Wait until the user has entered the code; return the login.

    Raises `NotAuthenticated` when they refuse or take too long, `IssuerUnavailable` for an answer that means nothing.
    """
    code, interval = pending.code, max(0.0, pending.code.interval)
    form = {"grant_type": _DEVICE, "client_id": pending.option.client_id, "device_code": code.device_code}
    form["resource"] = pending.option.resource
    ends = monotonic() + code.expires_in
    while monotonic() + interval < ends:
        sleep(interval)
        try:
            answer = _post(pending.metadata.token_endpoint, form)
        except IssuerUnavailable:
            interval = 2 * interval + 1  # RFC 8628: back off when there is no connection
            continue
        if answer.is_success:
            return _login(pending, _read(TokenAnswer, answer), now())
        error = _error(answer)
        if error.error == "slow_down":
            interval += _SLOWER_S
        elif error.error != "authorization_pending":
            raise _refusal(answer, pending.option.name)
    raise NotAuthenticated("nobody entered the code in time; begin again with `terascope login`")


def renew(login: Login, now: float) -> Login:
    """Return the login with a new token.

    Raises `NotAuthenticated` when the issuer gives none any more, `IssuerUnavailable` when it cannot be asked.
    """
    form = {"grant_type": "refresh_token", "client_id": login.client_id, "refresh_token": login.refresh_token}
    answer = _post(login.token_endpoint, form | {"resource": login.resource})
    if not answer.is_success:
        raise _refusal(answer, login.name)
    return _renewed(login, _read(TokenAnswer, answer), now)


def revoke(login: Login) -> None:
    """Tell the issuer that the login is over (RFC 7009), if it takes that. Raises `IssuerUnavailable`."""
    if login.revocation_endpoint and login.refresh_token:
        form = {"client_id": login.client_id, "token": login.refresh_token, "token_type_hint": "refresh_token"}
        _post(login.revocation_endpoint, form)


def _discover(option: LoginOption) -> ProviderMetadata:
    if not is_private(option.issuer):
        raise ConfigError(f"the issuer {option.issuer} is not https; ask an operator to mend the configuration")
    try:
        answer = httpx.get(discovery_url(option.issuer), timeout=_TIMEOUT_S, trust_env=not is_loopback(option.issuer))
    except httpx.HTTPError as error:
        raise _unreachable(option.issuer, error) from error
    metadata = _read(ProviderMetadata, answer)
    if metadata.issuer != option.issuer or not metadata.device_authorization_endpoint:
        raise ConfigError(f"{option.issuer} offers no login by device code; ask an operator for an API key")
    return metadata


def _login(pending: Pending, answer: TokenAnswer, now: float) -> Login:
    option, metadata = pending.option, pending.metadata
    empty = Login(
        url=pending.url, name=option.name, issuer=option.issuer, client_id=option.client_id, kind=option.token,
        resource=option.resource, token_endpoint=metadata.token_endpoint,
        revocation_endpoint=metadata.revocation_endpoint, token="", refresh_token="", expires=0.0,
    )  # fmt: skip
    return _renewed(empty, answer, now)


def _renewed(login: Login, answer: TokenAnswer, now: float) -> Login:
    token = {"access": answer.access_token, "id": answer.id_token}.get(login.kind)
    if not token:
        raise NotAuthenticated(f"{login.name} gave no {login.kind} token; sign in again with `terascope login`")
    lasts = answer.expires_in if login.kind == "access" and answer.expires_in > 0 else _ends(token, now) - now
    refresh_token = answer.refresh_token or login.refresh_token
    return login.model_copy(update={"token": token, "refresh_token": refresh_token, "expires": now + lasts})


def _ends(token: str, now: float) -> float:
    """When a JWT says that it expires; it is ours, so its signature is no business of ours."""
    try:
        payload = token.split(".")[1]
        return float(orjson.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"])
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error):
        return now + _SHORTEST_S


def _post(url: str, form: Mapping[str, str]) -> httpx.Response:
    """Send what is not empty of `form`, which holds secrets: to where nobody can read them, and nowhere else."""
    if not is_private(url):
        raise ConfigError(f"{url[:200]!r} is not https; ask an operator to mend the configuration of the issuer")
    sent = {name: value for name, value in form.items() if value}
    try:
        return httpx.post(url, data=sent, timeout=_TIMEOUT_S, trust_env=not is_loopback(url))
    except httpx.HTTPError as error:
        raise _unreachable(url, error) from error


def _read(kind: type[T], answer: httpx.Response) -> T:
    try:
        return kind.model_validate_json(answer.content)
    except ValidationError:
        raise IssuerUnavailable(f"{answer.url} gave an answer that means nothing; ask an operator") from None


def _error(answer: httpx.Response) -> OAuthError:
    return _read(OAuthError, answer)


def _refusal(answer: httpx.Response, name: str) -> ServiceError:
    error = _error(answer)
    told = {
        "access_denied": "the login was refused",
        "expired_token": "nobody entered the code in time",
        "invalid_grant": "the login has ended",
    }.get(error.error, f"{name} says {error.error}: {error.error_description}")
    return NotAuthenticated(f"{told[:500]}; sign in again with `terascope login`")


def _unreachable(url: str, error: httpx.HTTPError) -> IssuerUnavailable:
    return IssuerUnavailable(f"no answer from {url} ({str(error) or type(error).__name__}); try again")

"""Signing in by device code, with an issuer that says what a test wants it to say; time passes as the test says."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from terascope.client import Client, logins, oauth
from terascope.client.auth import LoginAuth
from terascope.client.logins import Login
from terascope.core.errors import ConfigError, IssuerUnavailable, NotAuthenticated, NotFound
from terascope.protocol.identity import LoginOption
from terascope.testing.issuer import SmallIssuer, encoded

URL = "http://127.0.0.1:8123"
TOKENS = {"access_token": "the token", "refresh_token": "the refresh token", "expires_in": 300, "token_type": "Bearer"}
SetEnvironment = Callable[[str, str], None]


@pytest.fixture(autouse=True)
def config_home(tmp_path: Path, set_environment: SetEnvironment) -> Path:
    set_environment("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config"


@pytest.fixture
def issuer() -> Iterator[SmallIssuer]:
    with SmallIssuer() as small:
        yield small


class Time:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def __call__(self) -> float:
        return self.now


def option(issuer: SmallIssuer, **changes: str) -> LoginOption:
    said: dict[str, Any] = {
        "name": "small", "issuer": issuer.url, "client_id": "cli", "scopes": ["openid", "a"], "resource": "https://r.test",
        "token": "access",
    }  # fmt: skip
    return LoginOption(**said | changes)


def finished(issuer: SmallIssuer, polls: list[dict[str, Any]], clock: Time, **changes: str) -> Login:
    pending = oauth.begin(URL, option(issuer, **changes))
    issuer.polls = polls
    return oauth.finish(pending, sleep=clock.sleep, now=clock, monotonic=clock)


def test_a_login_by_device_code(issuer: SmallIssuer) -> None:
    clock = Time()
    login = finished(issuer, [{"error": "authorization_pending"}, TOKENS], clock)
    assert (login.token, login.refresh_token, login.expires) == ("the token", "the refresh token", clock.now + 300)
    assert (login.url, login.issuer, login.kind) == (URL, issuer.url, "access")
    assert clock.slept == [5, 5]
    asked, *polled = issuer.forms
    assert asked == {"client_id": "cli", "scope": "openid a", "resource": "https://r.test"}
    assert polled[0] == {
        "grant_type": "urn:ietf:params:oauth:grant-type:device_code", "client_id": "cli",
        "device_code": "the-device-code", "resource": "https://r.test",
    }  # fmt: skip
    assert "the token" not in repr(login)
    assert "refresh token" not in repr(login)


def test_slow_down_is_heeded_from_then_on(issuer: SmallIssuer) -> None:
    clock, slow, wait = Time(), {"error": "slow_down"}, {"error": "authorization_pending"}
    finished(issuer, [wait, slow, wait, slow, TOKENS], clock)
    assert clock.slept == [5, 5, 10, 10, 15]


@pytest.mark.parametrize(
    ("error", "why"),
    [
        ("access_denied", "the login was refused"),
        ("expired_token", "nobody entered the code in time"),
        ("invalid_client", "small says invalid_client"),
    ],
)
def test_a_refusal_ends_it(issuer: SmallIssuer, error: str, why: str) -> None:
    clock = Time()
    with pytest.raises(NotAuthenticated, match=why):
        finished(issuer, [{"error": error}], clock)
    assert len(clock.slept) == 1


def test_a_code_that_nobody_enters_ends(issuer: SmallIssuer) -> None:
    clock = Time()
    with pytest.raises(NotAuthenticated, match="in time"):
        finished(issuer, [], clock)
    assert sum(clock.slept) <= 600
    assert issuer.asked["/token"] == len(clock.slept) < 121


def test_without_a_connection_it_asks_less_and_less_often() -> None:
    clock = Time()
    with SmallIssuer() as issuer:
        pending = oauth.begin(URL, option(issuer))
    with pytest.raises(NotAuthenticated, match="in time"):
        oauth.finish(pending, sleep=clock.sleep, now=clock, monotonic=clock)
    assert clock.slept == [5, 11, 23, 47, 95, 191]


@pytest.mark.parametrize("answer", [b"", b"[]", b"{}", b"<html>", b'{"access_token": 7}'])
def test_an_answer_that_means_nothing(issuer: SmallIssuer, answer: bytes) -> None:
    issuer.answers["/token"] = (200, {}, answer)
    with pytest.raises(IssuerUnavailable, match="means nothing"):
        finished(issuer, [], Time())


def test_an_id_token_is_kept_where_the_gateway_takes_those(issuer: SmallIssuer) -> None:
    clock = Time()
    token = f"{encoded({'alg': 'ES256'})}.{encoded({'exp': clock.now + 77})}.AA"
    login = finished(issuer, [TOKENS | {"id_token": token}], clock, token="id")
    assert (login.token, login.expires) == (token, clock.now + 77 - 5)
    with pytest.raises(NotAuthenticated, match="gave no id token"):
        finished(issuer, [TOKENS], clock, token="id")


@pytest.mark.parametrize("lasts", [{"expires_in": 0}, {"expires_in": -7}])
def test_a_token_that_does_not_say_how_long_it_lasts(issuer: SmallIssuer, lasts: dict[str, Any]) -> None:
    clock = Time()
    assert finished(issuer, [TOKENS | lasts], clock).expires == clock.now + 60


def test_an_issuer_without_device_codes(issuer: SmallIssuer) -> None:
    metadata = issuer.metadata()
    del metadata["device_authorization_endpoint"]
    issuer.answers["/.well-known/openid-configuration"] = (200, {}, json.dumps(metadata).encode())
    with pytest.raises(ConfigError, match="offers no login by device code"):
        oauth.begin(URL, option(issuer))


@pytest.mark.parametrize("where", ["http://tokens.test/", "file:///x", ""])
def test_secrets_go_only_where_nobody_reads_them(issuer: SmallIssuer, where: str) -> None:
    clock = Time()
    issuer.answers["/.well-known/openid-configuration"] = (
        200, {}, json.dumps(issuer.metadata() | {"token_endpoint": where}).encode(),
    )  # fmt: skip
    with pytest.raises(ConfigError, match="is not https"):
        finished(issuer, [TOKENS], clock)
    with pytest.raises(ConfigError, match="is not https"):
        oauth.begin(URL, option(issuer).model_copy(update={"issuer": "http://a.test"}))
    with pytest.raises(ConfigError, match="could use your token"):
        oauth.login_option("http://gateway.test")


# where a gateway's users sign in


def served(issuer: SmallIssuer, *options: LoginOption) -> None:
    told = json.dumps({"login": [one.model_dump() for one in options]}).encode()
    issuer.answers["/.well-known/terascope"] = (200, {}, told)


def test_which_issuer(issuer: SmallIssuer) -> None:
    one, two = option(issuer), option(issuer, name="two")
    served(issuer, one)
    assert oauth.login_option(issuer.url) == one
    served(issuer, one, two)
    assert oauth.login_option(issuer.url, "two") == two
    for name in ("", "three"):
        with pytest.raises(NotFound, match="choose the issuer with --issuer: small, two"):
            oauth.login_option(issuer.url, name)
    served(issuer)
    with pytest.raises(NotFound, match="has no login; ask an operator for an API key"):
        oauth.login_option(issuer.url)


# what is kept


def kept(**changes: Any) -> Login:
    said: dict[str, Any] = {
        "url": URL, "name": "small", "issuer": "https://i.test", "client_id": "cli", "kind": "access", "resource": "",
        "token_endpoint": "https://i.test/token", "revocation_endpoint": "", "token": "t", "refresh_token": "r",
        "expires": 0.0,
    }  # fmt: skip
    return Login(**said | changes)


def test_a_login_is_kept_for_its_gateway_and_its_user_alone(config_home: Path) -> None:
    before = os.umask(0)
    try:
        logins.save(kept())
    finally:
        os.umask(before)
    assert logins.load(URL) == kept()
    assert logins.load("http://127.0.0.1:8124") is None
    [path] = [one for one in config_home.rglob("*") if one.is_file()]
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    logins.save(kept(token="another"))
    assert logins.load(URL) == kept(token="another")
    assert [one for one in config_home.rglob("*") if one.is_file()] == [path]
    logins.remove(URL)
    logins.remove(URL)
    assert logins.load(URL) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"url": "http://127.0.0.1:8123"}'])
def test_a_file_that_is_damaged_is_no_login(config_home: Path, content: bytes) -> None:
    logins.save(kept())
    [path] = [one for one in config_home.rglob("*") if one.is_file()]
    path.write_bytes(content)
    assert logins.load(URL) is None


def test_a_file_that_was_moved_to_another_gateway_is_none_there(config_home: Path) -> None:
    logins.save(kept())
    [path] = [one for one in config_home.rglob("*") if one.is_file()]
    logins.save(kept(url="http://evil.test"))
    [other] = [one for one in config_home.rglob("*") if one.is_file() and one != path]
    path.replace(other)
    assert logins.load("http://evil.test") is None


# how it is used


def headers(auth: LoginAuth) -> str:
    request = httpx.Request("GET", URL)
    next(auth.sync_auth_flow(request))
    return request.headers["authorization"]


def in_time(issuer: SmallIssuer, left: float, clock: Time, **changes: Any) -> LoginAuth:
    login = kept(token_endpoint=f"{issuer.url}/token", expires=clock.now + left, **changes)
    logins.save(login)
    return LoginAuth(login, now=clock)


def test_a_token_is_renewed_before_it_ends(issuer: SmallIssuer) -> None:
    clock = Time()
    auth = in_time(issuer, 100, clock)
    assert headers(auth) == "Bearer t"
    clock.now += 71
    issuer.polls = [TOKENS]
    assert [headers(auth), headers(auth)] == ["Bearer the token"] * 2
    assert issuer.forms == [{"grant_type": "refresh_token", "client_id": "cli", "refresh_token": "r"}]
    saved = logins.load(URL)
    assert saved is not None
    assert (saved.token, saved.refresh_token) == ("the token", "the refresh token")


def test_an_issuer_that_keeps_the_refresh_token(issuer: SmallIssuer) -> None:
    clock = Time()
    auth = in_time(issuer, 0, clock)
    issuer.polls = [{"access_token": "new", "expires_in": 60}]
    headers(auth)
    assert (logins.load(URL) or kept()).refresh_token == "r"


def test_what_another_program_renewed_is_used(issuer: SmallIssuer) -> None:
    """An issuer may take a refresh token once only, and revoke everything when it comes again."""
    clock = Time()
    auth = in_time(issuer, 10, clock)
    logins.save(kept(token="theirs", expires=clock.now + 300))
    assert headers(auth) == "Bearer theirs"
    assert not issuer.forms


def test_an_issuer_that_is_down_is_waited_for_until_the_token_ends(issuer: SmallIssuer) -> None:
    clock = Time()
    auth = in_time(issuer, 20, clock)
    issuer.answers["/token"] = (503, {}, b"")
    assert headers(auth) == "Bearer t"
    clock.now += 21
    with pytest.raises(IssuerUnavailable):
        headers(auth)


def test_a_login_ends(issuer: SmallIssuer) -> None:
    clock = Time()
    auth = in_time(issuer, 0, clock)
    issuer.polls = [{"error": "invalid_grant"}]
    with pytest.raises(NotAuthenticated, match="the login has ended; sign in again"):
        headers(auth)
    logins.remove(URL)
    with pytest.raises(NotAuthenticated, match="you have signed out"):
        headers(auth)
    with pytest.raises(NotAuthenticated, match="your login has ended"):
        headers(in_time(issuer, 0, clock, refresh_token=""))
    assert headers(in_time(issuer, 10, clock, refresh_token="")) == "Bearer t"


def test_a_key_goes_before_the_login(set_environment: SetEnvironment) -> None:
    logins.save(kept(expires=time.time() + 1000))

    def sent(client: Client) -> Mapping[str, str]:
        return client._http.headers

    with Client(URL) as client:
        assert isinstance(client._http.auth, LoginAuth)
    with Client(URL, "tera-x") as client:
        assert client._http.auth is None
        assert sent(client)["authorization"] == "Bearer tera-x"
    set_environment("TERASCOPE_API_KEY", "tera-y")
    with Client(URL) as client:
        assert client._http.auth is None
        assert sent(client)["authorization"] == "Bearer tera-y"

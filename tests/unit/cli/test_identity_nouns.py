"""login, logout, whoami and service-accounts, asked of a real gateway and a small issuer."""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from terascope.client import Client, logins
from terascope.core.config import AuthConfig, LoginConfig
from terascope.testing.gateway import ECHO, Served, running_gateway
from terascope.testing.issuer import SmallIssuer

from .conftest import Cli, SetEnvironment


@pytest.fixture(scope="module")
def issuer() -> Iterator[SmallIssuer]:
    with SmallIssuer() as small:
        at_once = small._device() | {"interval": 0}
        small.answers["/device"] = (200, {}, json.dumps(at_once).encode())
        yield small


@pytest.fixture(scope="module")
def gateway(issuer: SmallIssuer) -> Iterator[Served]:
    """A gateway that trusts the issuer."""
    auth = AuthConfig(issuers=[issuer.config(login=LoginConfig("cli"))])
    with running_gateway(replace(ECHO, auth=auth)) as served:
        yield served


@pytest.fixture
def elsewhere(bare: Cli, gateway: Served, set_environment: SetEnvironment) -> Cli:
    """`terascope` on another machine, which knows the gateway's URL alone."""
    set_environment("TERASCOPE_URL", gateway.url)
    return bare


def token(issuer: SmallIssuer, user: str = "ada", lasts: int = 300) -> dict[str, object]:
    now = time.time()
    return {"access_token": issuer.token(now, sub=user), "refresh_token": "r", "expires_in": lasts}


def test_signing_in_and_out(elsewhere: Cli, issuer: SmallIssuer, gateway: Served) -> None:
    issuer.polls = [{"error": "authorization_pending"}, token(issuer)]
    done = elsewhere("login")
    assert done.status == 0, done.err
    assert "Open " + issuer.url + "/enter in a browser and enter the code\n\n    WDJB-MJHT\n" in done.out
    assert f"You are small:ada at {gateway.url}; the token is good until 20" in done.out
    shown = elsewhere("whoami", "--json").json
    assert (shown["user"], shown["scopes"], shown["projects"]) == ("small:ada", ["embed", "query"], [])
    assert "may not use the project 'local'" in elsewhere("chat", "echo", stdin="hello\n").err
    assert elsewhere("logout").out == f"signed out at {gateway.url}\n"
    assert issuer.forms[-1] == {"client_id": "cli", "token": "r", "token_type_hint": "refresh_token"}
    again = elsewhere("logout")
    assert (again.status, again.err) == (0, f"there is no login at {gateway.url}\n")
    assert "sign in with `terascope login`, or set TERASCOPE_API_KEY" in elsewhere("whoami").err


def test_a_token_that_the_gateway_refuses_is_not_kept(elsewhere: Cli, issuer: SmallIssuer, gateway: Served) -> None:
    issuer.polls = [{"access_token": issuer.token(time.time(), aud="https://other.test"), "expires_in": 9}]
    done = elsewhere("login")
    assert (done.status, "is meant for another service" in done.err) == (1, True)
    assert logins.load(gateway.url) is None


def test_what_an_issuer_writes_does_not_steer_the_terminal(elsewhere: Cli, issuer: SmallIssuer) -> None:
    kept = issuer.answers["/device"]
    hostile = json.loads(kept[2]) | {"user_code": "\x1b[2J\x07", "verification_uri": "https://x.test/\x1b]0;x\x07"}
    issuer.answers["/device"] = (200, {}, json.dumps(hostile).encode())
    issuer.polls = [{"error": "access_denied"}]
    done = elsewhere("login")
    issuer.answers["/device"] = kept
    assert (done.status, "\x1b" in done.out, "\x07" in done.out) == (1, False, False)
    assert "the login was refused" in done.err


def test_logout_without_the_issuer(elsewhere: Cli, issuer: SmallIssuer, gateway: Served) -> None:
    issuer.polls = [token(issuer)]
    assert elsewhere("login", "--issuer", "small").status == 0
    login = logins.load(gateway.url)
    assert login is not None
    logins.save(login.model_copy(update={"revocation_endpoint": "http://127.0.0.1:9/revoke"}))
    done = elsewhere("logout")
    assert (done.status, done.out) == (0, f"signed out at {gateway.url}\n")
    assert "the issuer could not be told: no answer from http://127.0.0.1:9/revoke" in done.err


def test_a_key_goes_before_the_login_and_the_login_before_the_data_directory(
    elsewhere: Cli, issuer: SmallIssuer, gateway: Served, set_environment: SetEnvironment
) -> None:
    issuer.polls = [token(issuer)]
    assert elsewhere("login").status == 0
    assert elsewhere("whoami", "--json", "--key", gateway.key).json["user"] == "tests"
    set_environment("TERASCOPE_DATA_DIR", str(gateway.data_dir))
    assert elsewhere("whoami", "--json").json["user"] == "small:ada"
    assert elsewhere("whoami", "--json", "--data-dir", str(gateway.data_dir)).json["user"] == "local operator"
    assert "that takes an operator's key" in elsewhere("doctor").out
    set_environment("TERASCOPE_API_KEY", gateway.key)
    assert elsewhere("whoami", "--json").json["user"] == "tests"
    elsewhere("logout")


def test_a_gateway_without_issuers(bare: Cli) -> None:
    with running_gateway(ECHO) as served:
        told = bare("login", "--url", served.url)
    assert (told.status, "has no login; ask an operator for an API key" in told.err) == (1, True)


def test_service_accounts(elsewhere: Cli, gateway: Served) -> None:
    with Client(gateway.url, gateway.key) as client:
        client.projects.create("climate", pi="ada")
        ada = client.keys.create("ada", project="climate").key
    made = elsewhere(
        "service-accounts", "create", "nightly", "--project", "climate", "--title", "every night", "--key", ada
    )
    assert "service:climate/nightly is member of climate. A key for it:" in made.out
    command = made.out.splitlines()[-1].split()
    key = elsewhere(*command[1:], "--key", ada)
    assert key.status == 0, key.err
    shown = elsewhere("whoami", "--key", key.out.strip())
    assert re.search(r"^user +service:climate/nightly$", shown.out, re.MULTILINE)
    assert re.search(r"^pays +climate, and no other$", shown.out, re.MULTILINE)
    listed = elsewhere("service-accounts", "list", "--project", "climate", "--key", ada).out
    assert re.search(r"^climate +nightly +member +every night +20.* ada$", listed, re.MULTILINE)
    assert [one["name"] for one in elsewhere("keys", "list", "--project", "climate", "--json", "--key", ada).json] == [
        "ada",
        "nightly",
    ]
    gone = elsewhere("service-accounts", "remove", "nightly", "--project", "climate", "--key", ada)
    assert gone.out == "climate has no service account nightly any more; its keys are revoked\n"
    assert "has been revoked" in elsewhere("whoami", "--key", key.out.strip()).err
    assert elsewhere("service-accounts", "list", "--key", ada).err == "there is no service account\n"

"""Single sign-on with a certified OpenID Connect provider: npm's `oidc-provider`, run by node (oidc_provider.mjs)."""

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest

from terascope.cli.app import run
from terascope.client import AsyncClient, Client, logins, oauth
from terascope.core.config import AuthConfig, Config, GroupConfig, IssuerConfig, LoginConfig
from terascope.core.errors import InvalidToken, IssuerUnavailable, NotAllowed, NotAuthenticated
from terascope.testing.gateway import ECHO, Served, running_gateway

PACKAGE = "oidc-provider@9.13.3"
SCRIPT = Path(__file__).with_name("oidc_provider.mjs")
AUDIENCE = "https://terascope.test"
ROBOT = ("nightly-robot", "the robot keeps this to itself")
QUESTION = [{"role": "user", "content": "one two three"}]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@contextmanager
def provider(packages: Path, node: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """The provider in a process of its own: where it listens, and the process."""
    with subprocess.Popen(
        [node, str(SCRIPT)], env=os.environ | {"PACKAGES": str(packages)}, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            assert url.startswith("http://127.0.0.1:"), "the provider did not start"
            yield url, process
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def started(npm_package: Callable[[str], Path]) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    with provider(npm_package(PACKAGE), shutil.which("node") or "node") as one:
        yield one


@pytest.fixture(scope="module")
def issuer(started: tuple[str, "subprocess.Popen[str]"]) -> str:
    return started[0]


def configured(issuer: str) -> Config:
    one = IssuerConfig(
        url=issuer, name="sso", audience=AUDIENCE, jwks_retry_s=0.0,
        groups=[GroupConfig("climate", "climate"), GroupConfig("lead", "climate", "pi")],
        operator_groups=["admins"], clients={ROBOT[0]: "climate/nightly"},
        login=LoginConfig("terascope-cli", ["openid", "offline_access", "ask"], AUDIENCE),
    )  # fmt: skip
    return Config(auth=AuthConfig(issuers=[one]), deployments=ECHO.deployments)


@pytest.fixture(scope="module")
def gateway(issuer: str) -> Iterator[Served]:
    with running_gateway(configured(issuer)) as served:
        with Client(served.url, served.key) as operator:
            operator.projects.create("climate")
            operator.projects.allow("climate", "*")
            operator.allocations.grant("climate", 1000)
        yield served


@pytest.fixture(autouse=True)
def home(tmp_path: Path, set_environment: Callable[[str, str], None], gateway: Served) -> Path:
    """Where logins are kept; which gateway the command line asks."""
    set_environment("XDG_CONFIG_HOME", str(tmp_path / "config"))
    set_environment("TERASCOPE_DATA_DIR", str(tmp_path / "nothing"))
    set_environment("TERASCOPE_URL", gateway.url)
    return tmp_path


# the user's browser


class Form(HTMLParser):
    """The form of a page: where it goes, and its fields."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.action = ""
        self.fields: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        if tag == "form":
            self.action = said.get("action") or ""
        elif tag in ("input", "button") and (name := said.get("name")):
            self.fields[name] = said.get("value") or ""


def visit(page: str, account: str, *, refuse: bool = False) -> None:
    """Go through the provider's pages: confirm the code, sign in as `account`, agree; or refuse at the first."""
    with httpx.Client(follow_redirects=True, timeout=30) as browser:
        shown = browser.get(page)
        while "<form" in shown.text:
            form = Form(shown.text)
            chosen = form.fields | ({"login": account, "password": "any"} if "login" in form.fields else {})
            if "abort" in chosen:
                del chosen["confirm" if refuse else "abort"]
                if refuse:
                    browser.post(form.action, data=chosen)
                    return
            shown = browser.post(shown.url.join(form.action), data=chosen)
        assert "successful" in shown.text, shown.text


def sign_in(gateway: Served, account: str) -> logins.Login:
    """As `terascope login` does; the user is at once when it first waits."""
    pending = oauth.begin(gateway.url, oauth.login_option(gateway.url))
    page = pending.code.verification_uri_complete
    login = oauth.finish(pending, sleep=lambda _: visit(page, account))
    logins.save(login)
    return login


def ask(client: Client) -> int:
    """Ask the model through the client's login."""
    with client.chat("echo", QUESTION) as stream:
        return len(list(stream))


# what a user does


def test_terascope_login(gateway: Served, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The command as its users have it: it prints where to go, waits, and then all commands are theirs."""
    command = [sys.executable, "-m", "terascope", "login"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("or open "):
                visit(line.split()[2], "ada+climate")
        assert process.wait(60) == 0
    assert lines[-1].startswith(f"You are sso:ada+climate at {gateway.url}; the token is good until 20")
    [kept] = (home / "config" / "terascope" / "logins").glob("*.json")
    assert (kept.stat().st_mode & 0o777, kept.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert run(["whoami"]) == 0
    shown = capfd.readouterr().out
    assert "user      sso:ada+climate\n" in shown
    assert "projects  climate (member)\n" in shown
    assert run(["keys", "list"]) == 1
    assert run(["logout"]) == 0
    assert run(["whoami"]) == 1
    assert "sign in with `terascope login`" in capfd.readouterr().err
    assert not kept.exists()


def test_a_login_is_used_by_the_sdk_and_paid_by_the_groups_project(gateway: Served) -> None:
    sign_in(gateway, "grace+climate")
    with Client() as client:
        assert ask(client) > 0
        assert client.identity.me().project == "climate"
        [mine] = client.runs.list().data
        assert (mine.user, mine.project) == ("sso:grace+climate", "climate")
        with pytest.raises(NotAllowed):
            client.audit.list()
    with Client(gateway.url, gateway.key) as operator:
        assert "sso:grace+climate" in [one.target for one in operator.audit.list().data]


async def test_the_async_client_uses_it_too(gateway: Served) -> None:
    login = sign_in(gateway, "grace+climate")
    logins.save(login.model_copy(update={"expires": time.time() + 5}))
    async with AsyncClient() as client:
        assert (await client.identity.me()).user == "sso:grace+climate"
    renewed = logins.load(gateway.url)
    assert renewed is not None
    assert renewed.token != login.token


def test_who_is_in_no_group_may_do_nothing(gateway: Served) -> None:
    sign_in(gateway, "mallory")
    with Client() as client:
        assert client.identity.me().projects == []
        with pytest.raises(NotAllowed, match="may not use the project 'local'"):
            ask(client)


def test_operators_come_from_a_group(gateway: Served) -> None:
    sign_in(gateway, "root+admins")
    with Client() as client:
        assert client.identity.me().operator
        assert client.audit.list().data


def test_a_pi_by_her_group_manages_her_project(gateway: Served) -> None:
    sign_in(gateway, "lovelace+lead")
    with Client() as client:
        made = client.keys.create("for bob", user="bob", project="climate")
        assert made.confined
        assert made.id in [one.id for one in client.keys.list(project="climate").data]
        assert client.keys.revoke(made.id).revoked


def test_a_token_is_renewed_in_good_time(gateway: Served) -> None:
    login = sign_in(gateway, "ada+climate")
    assert 240 < login.expires - time.time() <= 300
    with Client() as client:
        client.identity.me()
        assert logins.load(gateway.url) == login
    logins.save(login.model_copy(update={"expires": time.time() + 20}))
    with Client() as client:
        client.identity.me()
        renewed = logins.load(gateway.url)
        assert renewed is not None
        assert renewed.refresh_token != login.refresh_token, "the provider takes each once only"
        assert renewed.expires - time.time() > 240
        assert client.identity.me().user == "sso:ada+climate"
    with pytest.raises(NotAuthenticated, match="the login has ended; sign in again with `terascope login`"):
        oauth.renew(login, time.time())


def test_after_logout_the_issuer_renews_nothing(gateway: Served) -> None:
    login = sign_in(gateway, "ada+climate")
    assert run(["logout"]) == 0
    with pytest.raises(NotAuthenticated, match="the login has ended"):
        oauth.renew(login, time.time())
    with Client() as client, pytest.raises(NotAuthenticated, match="no API key"):
        client.identity.me()


def test_who_refuses_is_told_so(gateway: Served) -> None:
    pending = oauth.begin(gateway.url, oauth.login_option(gateway.url))
    page = pending.code.verification_uri_complete
    with pytest.raises(NotAuthenticated, match="the login was refused"):
        oauth.finish(pending, sleep=lambda _: visit(page, "ada", refuse=True))


def robots_token(issuer: str, **changes: str) -> str:
    form = {"grant_type": "client_credentials", "resource": AUDIENCE, "scope": "ask"} | changes
    secret = ROBOT[1].replace(" ", "+")
    answer = httpx.post(f"{issuer}/token", data=form, auth=(ROBOT[0], secret))
    return str(answer.raise_for_status().json()["access_token"])


def test_a_clients_own_token_is_a_service_account(gateway: Served, issuer: str) -> None:
    token = robots_token(issuer)
    with Client(gateway.url, gateway.key) as operator, Client(gateway.url, token) as robot:
        with pytest.raises(InvalidToken, match="no service account service:climate/nightly"):
            robot.identity.me()
        operator.service_accounts.create("climate", "nightly")
        me = robot.identity.me()
        assert (me.user, me.confined, [one.name for one in me.projects]) == (
            "service:climate/nightly",
            True,
            ["climate"],
        )
        assert ask(robot) > 0
        operator.service_accounts.remove("climate", "nightly")
        with pytest.raises(InvalidToken, match="any more"):
            robot.identity.me()


def test_tokens_for_others_are_refused(gateway: Served, issuer: str) -> None:
    foreign = robots_token(issuer, resource="https://another.test")
    with Client(gateway.url, foreign) as robot, pytest.raises(InvalidToken, match="is meant for another service"):
        robot.identity.me()
    sent = httpx.get(f"{gateway.url}/v1/me", headers={"Authorization": f"Bearer {robots_token(issuer)}x"})
    assert (sent.status_code, sent.headers["www-authenticate"]) == (401, 'Bearer error="invalid_token"')


def test_the_providers_key_is_changed_under_way(gateway: Served, issuer: str) -> None:
    login = sign_in(gateway, "ada+climate")
    with Client(gateway.url, login.token) as client:
        client.identity.me()
        httpx.post(f"{issuer}/test/rotate").raise_for_status()
        renewed = oauth.renew(login, time.time())
        assert _kid(renewed.token) != _kid(login.token)
        with Client(gateway.url, renewed.token) as again:
            assert again.identity.me().user == "sso:ada+climate"
        with pytest.raises(InvalidToken, match="a key that its issuer does not have"):
            client.identity.me()


def _kid(token: str) -> Any:
    head = token.split(".", maxsplit=1)[0]
    return json.loads(base64.urlsafe_b64decode(head + "=="))["kid"]


def test_the_provider_goes_down(gateway: Served, issuer: str, started: tuple[str, "subprocess.Popen[str]"]) -> None:
    """The last test of this file: what is known goes on, what is new has to wait."""
    login = sign_in(gateway, "ada+climate")
    other = sign_in(gateway, "grace+climate")
    with Client(gateway.url, login.token) as client:
        client.identity.me()
        httpx.post(f"{issuer}/test/rotate").raise_for_status()
        unknown = robots_token(issuer)
        started[1].terminate()
        started[1].wait(30)
        assert ask(client) > 0
        with Client(gateway.url, other.token) as fresh:
            assert fresh.identity.me().user == "sso:grace+climate", "its key is known, the token is not"
        with Client(gateway.url, gateway.key) as operator:
            assert operator.identity.me().operator
        with Client(gateway.url, unknown) as robot, pytest.raises(IssuerUnavailable) as told:
            robot.identity.me()
        assert told.value.status == 503
        assert told.value.retry_after

"""An issuer's keys: found, kept, changed, and what happens while the issuer is ill."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import OctKey, RSAKey

from terascope.access.access import Access
from terascope.access.jwks import _SHORTEST_MODULUS
from terascope.access.tokens import Tokens
from terascope.core.errors import InvalidToken, IssuerUnavailable
from terascope.store.database import Database
from terascope.testing.clock import ManualClock
from terascope.testing.databases import new_sqlite
from terascope.testing.issuer import SmallIssuer, encoded

from .conftest import MakeAccess, holder, refused

DISCOVERY = "/.well-known/openid-configuration"
DOWN: tuple[int, Mapping[str, str], bytes] = (503, {}, b"")


@pytest.fixture
async def access(trusting: MakeAccess) -> Access:
    return await trusting()


async def background(access: Access) -> None:
    """Return when nothing is being fetched."""
    assert isinstance(access._tokens, Tokens)
    for one in access._tokens._issuers.values():
        if one.keys._fetching is not None:
            await one.keys._fetching


async def test_a_new_key_is_fetched_when_a_token_names_it(
    access: Access, issuer: SmallIssuer, clock: ManualClock
) -> None:
    await holder(access, issuer.token(clock.now()))
    issuer.add_key("second", "RS256")
    del issuer.keys["first"]
    clock.advance(10)
    assert (await holder(access, issuer.token(clock.now(), "second"))).user_id == "small:ada"
    assert issuer.asked["/jwks"] == 2


async def test_a_key_that_the_issuer_withdrew_is_trusted_no_more(
    access: Access, issuer: SmallIssuer, clock: ManualClock
) -> None:
    old = issuer.token(clock.now(), exp=int(clock.now()) + 90_000)
    await holder(access, old)
    issuer.add_key("second")
    del issuer.keys["first"]
    clock.advance(3601)
    assert (await holder(access, old)).user_id == "small:ada"  # while it is being looked at
    await background(access)
    clock.advance(10)
    await refused(access, old, "a key that its issuer does not have")


async def test_a_flood_of_unknown_keys_asks_once_in_a_while(
    access: Access, issuer: SmallIssuer, clock: ManualClock
) -> None:
    tokens = [issuer.token(clock.now()).split(".") for _ in range(2)]

    def unknown(number: int) -> str:
        head = encoded({"alg": "ES256", "kid": f"unknown {number}"})
        return ".".join([head, *tokens[0][1:]])

    for number in range(200):
        with pytest.raises((InvalidToken, IssuerUnavailable)):
            await holder(access, unknown(number))
    assert issuer.asked["/jwks"] == 1
    await refused(access, unknown(0), "a key that its issuer does not have")
    later = await refused(access, unknown(7), "just now", IssuerUnavailable)
    assert 1 <= (later.retry_after or 0) <= 10
    clock.advance(10)
    await refused(access, unknown(7), "a key that its issuer does not have")
    assert issuer.asked["/jwks"] == 2
    assert (await holder(access, ".".join(tokens[1]))).user_id == "small:ada"


async def test_while_the_issuer_is_down_known_keys_go_on_working(
    access: Access, issuer: SmallIssuer, clock: ManualClock
) -> None:
    held = issuer.token(clock.now(), exp=int(clock.now()) + 200_000)
    key, _ = await access.keys.create("lab", ["query"])
    await holder(access, held)
    issuer.answers[DISCOVERY] = DOWN
    issuer.add_key("second")
    for hours in (2, 20):
        clock.advance(hours * 3600)
        assert (await holder(access, held)).user_id == "small:ada"
        assert (await holder(access, issuer.token(clock.now()))).user_id == "small:ada"
        await background(access)
        error = await refused(access, issuer.token(clock.now(), "second"), "cannot be asked", IssuerUnavailable)
        assert (error.status, error.code, error.retryable) == (503, "issuer_unavailable", True)
        assert error.retry_after == 10
    clock.advance(3 * 3600)  # 25 hours: longer than `jwks_stale_s`
    for token in (held, issuer.token(clock.now())):
        await refused(access, token, "cannot be asked", IssuerUnavailable)
    assert (await holder(access, key)).name == "lab"
    del issuer.answers[DISCOVERY]
    clock.advance(10)
    assert (await holder(access, issuer.token(clock.now(), "second"))).user_id == "small:ada"
    assert (await holder(access, held)).user_id == "small:ada"


async def test_a_known_key_never_waits_for_the_issuer(access: Access, issuer: SmallIssuer, clock: ManualClock) -> None:
    held = issuer.token(clock.now(), exp=int(clock.now()) + 9000)
    await holder(access, held)
    clock.advance(3601)
    before = issuer.asked["/jwks"]
    await holder(access, held)
    assert issuer.asked["/jwks"] == before, "it was answered before the issuer was"
    await background(access)
    assert issuer.asked["/jwks"] == before + 1


async def test_a_restart_while_the_issuer_is_down(access: Access, issuer: SmallIssuer, clock: ManualClock) -> None:
    issuer.answers[DISCOVERY] = DOWN
    await refused(access, issuer.token(clock.now()), "cannot be asked", IssuerUnavailable)
    before = issuer.asked[DISCOVERY]
    await refused(access, issuer.token(clock.now()), "cannot be asked", IssuerUnavailable)
    assert issuer.asked[DISCOVERY] == before


ILL: list[tuple[str, tuple[int, dict[str, str], bytes]]] = [
    (DISCOVERY, (500, {}, b"{}")),
    (DISCOVERY, (200, {}, b"<html>login</html>")),
    (DISCOVERY, (200, {}, b"[]")),
    (DISCOVERY, (200, {}, b"{}")),
    (DISCOVERY, (200, {}, b'{"issuer": 7, "jwks_uri": null}')),
    (DISCOVERY, (200, {}, b'{"issuer": "https://other.test", "jwks_uri": "https://other.test/jwks"}')),
    (DISCOVERY, (302, {"Location": "http://127.0.0.1:1/"}, b"")),
    (DISCOVERY, (200, {}, b"[" * 100_000)),
    ("/jwks", (404, {}, b"{}")),
    ("/jwks", (200, {}, b"{}")),
    ("/jwks", (200, {}, b'{"keys": {}}')),
    ("/jwks", (200, {}, b'{"keys": [' + b" " * (600 << 10) + b"]}")),
    ("/jwks", (200, {"Content-Encoding": "gzip"}, b"\x1f\x8b")),
    ("/jwks", (200, {"Content-Length": "100", "Connection": "close"}, b"{")),
]


@pytest.mark.parametrize(("path", "answer"), ILL, ids=lambda value: str(value)[:60])
@pytest.mark.timeout(30)
async def test_an_issuer_that_is_ill_in_one_way_or_another(
    access: Access,
    issuer: SmallIssuer,
    clock: ManualClock,
    path: str,
    answer: tuple[int, dict[str, str], bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    issuer.answers[path] = answer
    error = await refused(access, issuer.token(clock.now()), "the issuer small cannot be asked", IssuerUnavailable)
    assert issuer.url not in error.message
    assert "no keys of the issuer small: " in caplog.text


@pytest.mark.parametrize("where", ["http://keys.test/jwks", "file:///etc/passwd", "/jwks", "ftp://127.0.0.1/", ""])
async def test_keys_come_from_where_nobody_can_change_them(
    access: Access, issuer: SmallIssuer, clock: ManualClock, where: str
) -> None:
    issuer.answers[DISCOVERY] = (200, {}, json.dumps(issuer.metadata() | {"jwks_uri": where}).encode())
    await refused(access, issuer.token(clock.now()), "cannot be asked", IssuerUnavailable)


async def test_of_the_keys_of_an_issuer_only_those_that_can_verify(
    access: Access, issuer: SmallIssuer, clock: ManualClock
) -> None:
    """A key that is not for us harms none beside it, and is not used."""
    secret = OctKey.generate_key(256)
    others: list[Any] = [
        secret.as_dict(kid="secret", alg="HS256"),
        {"kty": "RSA", "kid": "short", "n": "sXchDaQebHnPiGvyDOAT4saGEUetSyo9MKLOoWFsueri23bOdgWp4Dy1Wl", "e": "AQAB"},
        {"kty": "post-quantum", "kid": "future"},
        {"kty": "EC", "kid": "broken", "crv": "P-256", "x": "AAAA", "y": "%%%"},
        {"kty": "EC", "kid": "no-curve"},
        issuer.jwks()["keys"][0] | {"kid": "secrecy", "use": "enc"},
        "no key",
        None,
    ]
    issuer.answers["/jwks"] = (200, {}, json.dumps({"keys": others + issuer.jwks()["keys"]}).encode())
    assert (await holder(access, issuer.token(clock.now()))).user_id == "small:ada"
    for kid in ("secret", "short", "future", "broken", "no-curve", "secrecy"):
        clock.advance(10)
        issuer.keys[kid] = issuer.keys["first"]
        await refused(access, issuer.token(clock.now(), kid), "a key that its issuer does not have")


async def test_a_token_without_a_key_id(access: Access, issuer: SmallIssuer, clock: ManualClock) -> None:
    """It is of the only key that fits; where there are two it could be of either, and is taken from neither."""
    issuer.add_key("rsa", "RS256")
    unnamed = _unnamed(issuer, clock)
    assert (await holder(access, unnamed)).user_id == "small:ada"
    issuer.add_key("second")
    clock.advance(3601)
    again = _unnamed(issuer, clock)
    await holder(access, again)
    await background(access)
    clock.advance(10)
    await refused(access, again, "a key that its issuer does not have")


def _unnamed(issuer: SmallIssuer, clock: ManualClock) -> str:
    return issuer.sign(json.dumps(issuer.claims(clock.now())).encode(), "first", kid=None)


async def test_id_tokens_as_those_of_globus_auth(trusting: MakeAccess, issuer: SmallIssuer, clock: ManualClock) -> None:
    """RS512, and neither the key nor the token has an id."""
    access = await trusting(token="id", audience="client", algorithms=["RS512"], user_claim="preferred_username")
    _, key = issuer.keys.pop("first")[0], issuer.add_key("k", "RS512")
    public = key.as_dict(private=False, alg="RS512", use="sig")
    public.pop("kid", None)
    issuer.answers["/jwks"] = (200, {}, json.dumps({"keys": [public]}).encode())
    claims = issuer.claims(clock.now(), aud="client", at_hash="x", preferred_username="ada@uni.test")
    token = issuer.sign(json.dumps(claims).encode(), "k", kid=None, typ="JWT")
    assert [(await holder(access, token)).user_id for _ in range(3)] == ["small:ada@uni.test"] * 3
    assert issuer.asked["/jwks"] == 1


async def test_two_issuers(tmp_path: Path, clock: ManualClock, issuer: SmallIssuer) -> None:
    """Each is asked about its own tokens, and the same name at both is two users."""
    database = await Database.open(new_sqlite(tmp_path / "two.db"))
    with SmallIssuer() as other:
        access = Access(database, clock, issuers=[issuer.config(), other.config(name="other")])
        users = [(await holder(access, one.token(clock.now()))).user_id for one in (issuer, other)]
        assert users == ["small:ada", "other:ada"]
        issuer.keys["first"] = other.keys["first"]
        await refused(access, issuer.token(clock.now()), "no signed JWT")
    await database.aclose()


def test_the_shortest_key_is_one_of_2048_bits() -> None:
    key = RSAKey.generate_key(2048).as_dict(private=False)
    assert len(str(key["n"])) == _SHORTEST_MODULUS

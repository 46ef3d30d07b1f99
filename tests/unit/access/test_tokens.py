"""Tokens: whose signature is right, for us, from an issuer we know, now; all others are refused."""

import hashlib
import hmac
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, Key, RSAKey
from joserfc.jws import JWSRegistry

from terascope.access.access import Access
from terascope.access.tokens import _CACHED, MOST_BYTES, Tokens
from terascope.core.config import IssuerConfig
from terascope.core.errors import InvalidToken, NotAllowed, NotAuthenticated
from terascope.testing.clock import ManualClock
from terascope.testing.issuer import SmallIssuer, encoded

from .conftest import MakeAccess, holder, refused

ADA = "small:ada"


@pytest.fixture
async def access(trusting: MakeAccess) -> Access:
    return await trusting()


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "PS256", "EdDSA"])
async def test_a_token_names_its_user(access: Access, issuer: SmallIssuer, clock: ManualClock, algorithm: str) -> None:
    issuer.add_key("k", algorithm)
    who = await holder(access, issuer.token(clock.now(), "k"))
    assert (who.user_id, who.scopes, who.project, who.operator) == (ADA, frozenset({"query", "embed"}), "local", False)
    assert who.expires == int(clock.now()) + 300
    assert len(who.key_id) <= 40
    assert who.key_id == (await holder(access, issuer.token(clock.now(), jti="another"))).key_id


async def test_a_token_is_verified_once(access: Access, issuer: SmallIssuer, clock: ManualClock) -> None:
    token = issuer.token(clock.now())
    assert await holder(access, token) is await holder(access, token)
    assert issuer.asked == {"/.well-known/openid-configuration": 1, "/jwks": 1}


async def test_the_tokens_that_are_remembered_are_limited(
    access: Access, issuer: SmallIssuer, clock: ManualClock
) -> None:
    assert access._tokens is not None
    first = issuer.token(clock.now())
    await holder(access, first)
    [found] = access._tokens._cache.values()
    access._tokens._cache.update({f"{number:064}": found for number in range(_CACHED - 1)})
    await holder(access, issuer.token(clock.now(), jti="one more"))
    assert len(access._tokens._cache) == _CACHED


async def test_keys_stay_what_they_were(access: Access, issuer: SmallIssuer) -> None:
    key, row = await access.keys.create("lab", ["query"])
    assert (await holder(access, key)).key_id == row.id
    assert (await holder(access, access.local_token)).operator
    assert not issuer.asked
    with pytest.raises(NotAuthenticated, match="not known"):
        await holder(access, "tera-nothing")


# what is wrong with claims

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"aud": "https://other.test"}, "for another service: its `aud` must name https://terascope.test"),
    ({"aud": ["https://other.test", "https://third.test"]}, "for another service"),
    ({"aud": None}, "for another service"),
    ({"aud": {"a": 1}}, "for another service"),
    ({"iss": "https://other.test"}, "an issuer that is not known here"),
    ({"iss": None}, "an issuer that is not known here"),
    ({"iss": ["https://other.test"]}, "an issuer that is not known here"),
    ({"sub": None}, "lacks a proper `sub`"),
    ({"sub": 7}, "lacks a proper `sub`"),
    ({"exp": None}, "lacks a proper `exp`"),
    ({"exp": "tomorrow"}, "lacks a proper `exp`"),
    ({"exp": True}, "lacks a proper `exp`"),
    ({"exp": 10**300}, "never expires"),
    ({"exp": float("nan")}, "no signed JWT"),
    ({"exp": float("inf")}, "no signed JWT"),
    ({"iat": "now"}, "was issued in the future"),
    ({"iat": 10**300}, "was issued in the future"),
    ({"iat": 10**400}, "no signed JWT"),
    ({"nbf": []}, "is not valid yet"),
    ({"at_hash": "x"}, "not an access token"),
    ({"typ": "ID"}, "not an access token"),
    ({"typ": "Refresh"}, "not an access token"),
    ({"cnf": {"jkt": "x"}}, "bound to a key of its holder"),
]


@pytest.mark.parametrize(("claims", "why"), WRONG, ids=str)
async def test_wrong_claims(
    access: Access, issuer: SmallIssuer, clock: ManualClock, claims: dict[str, Any], why: str
) -> None:
    error = await refused(access, issuer.token(clock.now(), **claims), why)
    assert (error.status, error.code) == (401, "invalid_token")


@pytest.mark.parametrize("claims", [{"aud": ["https://other.test", "https://terascope.test"]}, {"iat": None}])
async def test_right_claims(access: Access, issuer: SmallIssuer, clock: ManualClock, claims: dict[str, Any]) -> None:
    assert (await holder(access, issuer.token(clock.now(), **claims))).user_id == ADA


@pytest.mark.parametrize(("typ", "taken"), [("JWT", 1), ("application/at+jwt", 1), ("logout+jwt", 0), ("dpop+jwt", 0)])
async def test_only_access_tokens(
    access: Access, issuer: SmallIssuer, clock: ManualClock, typ: str, taken: int
) -> None:
    token = issuer.token(clock.now(), typ=typ)
    if taken:
        assert (await holder(access, token)).user_id == ADA
    else:
        await refused(access, token, "not an access token")


async def test_id_tokens_where_they_are_configured(
    trusting: MakeAccess, issuer: SmallIssuer, clock: ManualClock
) -> None:
    access = await trusting(token="id", audience="terascope-cli")
    its: dict[str, Any] = {"aud": "terascope-cli", "at_hash": "x"}
    assert (await holder(access, issuer.token(clock.now(), typ="JWT", **its))).user_id == ADA
    await refused(access, issuer.token(clock.now(), typ="JWT", azp="other", **its), "not an id token")
    await refused(access, issuer.token(clock.now(), typ="at+jwt", **its), "not an id token")


# when


async def test_a_token_ends_when_it_says_give_or_take_the_leeway(
    access: Access, issuer: SmallIssuer, clock: ManualClock
) -> None:
    token = issuer.token(clock.now())
    await holder(access, token)
    clock.advance(329)
    assert (await holder(access, token)).user_id == ADA
    clock.advance(1.5)
    await refused(access, token, "has expired; get a new one")
    await refused(access, issuer.token(clock.now(), exp=int(clock.now()) - 31), "has expired")


async def test_a_token_begins_when_it_says(access: Access, issuer: SmallIssuer, clock: ManualClock) -> None:
    early: dict[str, Any] = {"nbf": int(clock.now()) + 100, "exp": int(clock.now()) + 900}
    token = issuer.token(clock.now(), **early)
    await refused(access, token, "is not valid yet")
    await refused(access, issuer.token(clock.now() + 100), "was issued in the future")
    clock.advance(70)
    assert (await holder(access, token)).user_id == ADA


async def test_a_clock_that_is_set_back_lets_nobody_in_again(
    access: Access, issuer: SmallIssuer, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    held, fresh = issuer.token(clock.now()), issuer.token(clock.now(), jti="not seen before")
    await holder(access, held)
    clock.advance(400)
    clock.set_wall(-3600)
    await refused(access, held, "has expired")
    await refused(access, fresh, "has expired")
    assert "the clock was set back by 3600 s" in caplog.text


async def test_a_clock_that_jumps_ahead_refuses_only_as_long_as_it_is_ahead(
    access: Access, issuer: SmallIssuer, clock: ManualClock
) -> None:
    token = issuer.token(clock.now())
    await holder(access, token)
    clock.set_wall(3600)
    await refused(access, token, "has expired")
    clock.set_wall(-3600)
    assert (await holder(access, token)).user_id == ADA


# who signed it


def with_header(issuer: SmallIssuer, clock: ManualClock, **header: Any) -> str:
    return f"{encoded({'alg': 'ES256', 'kid': 'first'} | header)}.{encoded(issuer.claims(clock.now()))}"


async def test_no_signature_is_none(access: Access, issuer: SmallIssuer, clock: ManualClock) -> None:
    for alg in ("none", "None", "NONE", "nOnE"):
        for signature in ("", "AAAA"):
            await refused(access, f"{with_header(issuer, clock, alg=alg)}.{signature}", "no signed JWT")
    assert not issuer.asked


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
@pytest.mark.parametrize("kind", ["RS256", "ES256"])
async def test_the_public_key_is_no_secret(
    access: Access, issuer: SmallIssuer, clock: ManualClock, algorithm: str, kind: str
) -> None:
    """The classic: an HMAC with the public key, which everybody has, where the issuer signs with its private one."""
    key = issuer.add_key("k", kind)
    assert isinstance(key, ECKey | RSAKey)
    signed = with_header(issuer, clock, alg=algorithm, kid="k")
    for secret in (key.as_pem(private=False), key.as_der(private=False), json.dumps(key.as_dict(False)).encode()):
        digest = hmac.new(secret, signed.encode(), f"sha{algorithm[2:]}").digest()
        await refused(access, f"{signed}.{encoded(digest)}", "no signed JWT")


async def test_another_key_under_the_same_id(access: Access, issuer: SmallIssuer, clock: ManualClock) -> None:
    with SmallIssuer() as other:
        token = other.token(clock.now(), iss=issuer.url)
    await refused(access, token, "no signed JWT")


async def test_a_key_that_the_token_brings_along(access: Access, issuer: SmallIssuer, clock: ManualClock) -> None:
    with SmallIssuer() as other:
        claims = json.dumps(issuer.claims(clock.now())).encode()
        brought: dict[str, Any] = {"jwk": other.jwks()["keys"][0], "jku": f"{other.url}/jwks", "x5u": f"{other.url}/x"}
        for name, value in brought.items():
            await refused(access, other.sign(claims, **{name: value}), "no signed JWT")
        assert not other.asked


async def test_an_algorithm_that_is_not_configured(
    trusting: MakeAccess, issuer: SmallIssuer, clock: ManualClock
) -> None:
    access = await trusting(algorithms=["RS256"])
    await refused(access, issuer.token(clock.now()), "no signed JWT")
    assert not issuer.asked


async def test_a_key_of_another_algorithm(access: Access, issuer: SmallIssuer, clock: ManualClock) -> None:
    issuer.add_key("rsa", "RS256")
    token = with_header(issuer, clock, alg="PS256", kid="rsa")
    await refused(access, f"{token}.{encoded(b'x' * 256)}", "a key that its issuer does not have")


async def test_every_part_counts(access: Access, issuer: SmallIssuer, clock: ManualClock) -> None:
    token = issuer.token(clock.now())
    for at in range(0, len(token), 7):
        changed = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        with pytest.raises(NotAuthenticated):
            await holder(access, changed)
    assert (await holder(access, token)).user_id == ADA


async def test_extensions_that_change_what_is_signed(access: Access, issuer: SmallIssuer, clock: ManualClock) -> None:
    claims = json.dumps(issuer.claims(clock.now())).encode()
    headers: list[dict[str, Any]] = [{"crit": ["exp"], "exp": 1}, {"b64": True}, {"crit": ["b64"], "b64": True}]
    for header in [*headers, {"crit": []}]:
        algorithm, key = issuer.keys["first"]
        assert isinstance(key, ECKey)
        head = encoded({"alg": algorithm, "kid": "first"} | header)
        signed = f"{head}.{encoded(claims)}"
        await refused(access, f"{signed}.{_raw_signature(key, signed)}", "no signed JWT")
    assert (await holder(access, issuer.sign(claims, custom={"nobody": "knows"}))).user_id == ADA


def _raw_signature(key: Key, signed: str) -> str:
    """An ES256 signature, however the header looks."""
    return encoded(JWSRegistry.algorithms["ES256"].sign(signed.encode(), key))


# what is no token at all

DEEP = b"[" * 5000
NESTED = b'{"a":' * 1500
MALFORMED = [
    ".",
    "..",
    "...",
    "a.b",
    "a.b.c",
    "a.b.c.d.e",
    "\u00e9.\u00e9.\u00e9",
    f"{encoded(['alg'])}.{encoded({})}.AA",
    f"{encoded('alg')}.{encoded({})}.AA",
    f"{encoded(7)}.{encoded({})}.AA",
    f"{encoded({'alg': ['ES256']})}.{encoded({})}.AA",
    f"{encoded({'alg': None})}.{encoded({})}.AA",
    f"{encoded({})}.{encoded({})}.AA",
    f"{encoded({'alg': 'ES256'})}.{encoded([])}.AA",
    f"{encoded({'alg': 'ES256'})}.{encoded(b'')}.AA",
    f"{encoded({'alg': 'ES256'})}.{encoded(DEEP)}.AA",
    f"{encoded(DEEP)}.{encoded({})}.AA",
    f"{encoded(NESTED)}.{encoded({})}.AA",
]


@pytest.mark.parametrize("token", MALFORMED, ids=lambda token: token[:30])
async def test_malformed_tokens(access: Access, issuer: SmallIssuer, token: str) -> None:
    with pytest.raises(InvalidToken):
        await holder(access, token)
    assert not issuer.asked


@pytest.mark.parametrize("kid", [7, None, ["first"], {}])
async def test_a_key_id_that_is_no_text(access: Access, issuer: SmallIssuer, clock: ManualClock, kid: object) -> None:
    await refused(access, f"{with_header(issuer, clock, kid=kid)}.AA", "no signed JWT")


async def test_a_token_that_is_too_long_is_not_looked_at(
    access: Access, issuer: SmallIssuer, clock: ManualClock
) -> None:
    await refused(access, issuer.token(clock.now(), padding="x" * MOST_BYTES), f"longer than {MOST_BYTES} characters")
    long = issuer.token(clock.now(), padding="x" * (MOST_BYTES // 2))
    assert (await holder(access, long)).user_id == ADA
    assert issuer.asked["/jwks"] == 1


@given(st.text(max_size=400).map(lambda text: f"{text}."))
async def test_any_text_is_refused_in_order(text: str) -> None:
    tokens = Tokens([IssuerConfig(url="https://a.test", audience="b")], None, None, ManualClock())  # type: ignore[arg-type]
    with pytest.raises(InvalidToken):
        await tokens.identify(text)


async def test_what_is_signed_but_no_object(access: Access, issuer: SmallIssuer) -> None:
    for payload in (b"[]", b"null", b"7", b'"iss"', b"{", b"\xff", b'{"iss": "\\ud800"}', DEEP):
        with pytest.raises(InvalidToken):
            await holder(access, issuer.sign(payload))


async def test_a_claim_that_stands_twice(access: Access, issuer: SmallIssuer, clock: ManualClock) -> None:
    """The issuer of the one is not asked about the other: what is verified is what is read afterwards."""
    claims = json.dumps(issuer.claims(clock.now()))
    twice = claims[:-1] + ', "iss": "https://other.test"}'
    await refused(access, issuer.sign(twice.encode()), "an issuer that is not known here")
    first = '{"iss": "https://other.test", ' + claims[1:]
    assert (await holder(access, issuer.sign(first.encode()))).user_id == ADA


async def test_a_token_may_be_sent_again_until_it_expires(
    access: Access, issuer: SmallIssuer, clock: ManualClock
) -> None:
    """What a bearer token is: who holds it may use it. `jti` does not make it one for a single use."""
    token = issuer.token(clock.now(), jti="once")
    again = [await holder(access, token) for _ in range(3)]
    assert {one.user_id for one in again} == {ADA}
    clock.advance(331)
    await refused(access, token, "has expired")


# clients


async def test_a_client_is_no_user(access: Access, issuer: SmallIssuer, clock: ManualClock) -> None:
    for claim in ("client_id", "azp"):
        token = issuer.token(clock.now(), sub="robot", **{claim: "robot"})
        await refused(access, token, "a client's own, and no service account here", NotAllowed)
    assert (await holder(access, issuer.token(clock.now(), client_id="cli", azp="cli"))).user_id == ADA


async def test_the_token_itself_is_not_kept(access: Access, issuer: SmallIssuer, clock: ManualClock) -> None:
    token = issuer.token(clock.now())
    await holder(access, token)
    assert access._tokens is not None
    assert list(access._tokens._cache) == [hashlib.sha256(token.encode()).hexdigest()]
    assert token.rpartition(".")[2] not in repr(access._tokens._cache)

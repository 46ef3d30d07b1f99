"""What the configuration of issuers may say."""

from dataclasses import replace
from typing import Any

import pytest

from terascope.access.issuers import SIGNATURES, checked_issuers
from terascope.core.config import GroupConfig, IssuerConfig
from terascope.core.errors import ConfigError

GOOD = IssuerConfig(url="https://sso.test/realms/a", audience="terascope")


def test_the_host_is_the_name_where_none_is_given() -> None:
    [one] = checked_issuers([GOOD])
    assert one == replace(GOOD, name="sso.test")
    assert checked_issuers([]) == []


@pytest.mark.parametrize("url", ["https://a.test", "https://a.test:8443/x/", "http://127.0.0.1:9000", "http://[::1]:1"])
def test_urls_that_are_taken(url: str) -> None:
    assert checked_issuers([replace(GOOD, url=url, name="a")])[0].url == url


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"url": ""}, "write the issuer's https URL"),
    ({"url": "http://a.test"}, "http is for loopback only"),
    ({"url": "http://127.0.0.1.a.test"}, "http is for loopback only"),
    ({"url": "https://a.test?x=1"}, "without a query"),
    ({"url": "https://[bad"}, "write the issuer's https URL"),
    ({"url": "file:///etc/passwd"}, "write the issuer's https URL"),
    ({"name": "Ä"}, "lower-case letters"),
    ({"name": "a:b"}, "lower-case letters"),
    ({"name": "service"}, "not `service`"),
    ({"audience": ""}, "say what `aud` must name"),
    ({"algorithms": ["none"]}, "'none' cannot be taken"),
    ({"algorithms": ["RS256", "HS256"]}, "'HS256' cannot be taken"),
    ({"algorithms": []}, "name `algorithms`"),
    ({"leeway_s": -1.0}, "`leeway_s` from 0 to 300"),
    ({"leeway_s": 86400.0}, "`leeway_s` from 0 to 300"),
    ({"jwks_retry_s": -1.0}, "`jwks_cache_s` is at least 0"),
    ({"jwks_stale_s": 60.0}, "`jwks_stale_s` at least as much"),
    ({"scopes": ["query", "operator"]}, "not everybody can be an operator"),
    ({"scopes": ["everything"]}, "there is no scope 'everything'"),
    ({"scopes": []}, "needs a scope"),
    ({"project": "No Project"}, "a project's name is"),
    ({"groups": [GroupConfig("g", "")]}, "a project's name is"),
    ({"groups": [GroupConfig("", "climate")]}, "each entry names a `group`"),
    ({"clients": {"robot": "nightly"}}, "a service account is PROJECT/NAME"),
]


@pytest.mark.parametrize(("changes", "why"), WRONG, ids=str)
def test_what_is_wrong_is_said(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        checked_issuers([GOOD, replace(replace(GOOD, url="https://b.test", name="b"), **changes)])
    assert caught.value.message.startswith("auth.issuers.1")


def test_issuers_are_told_apart() -> None:
    with pytest.raises(ConfigError, match=r"two have the name sso\.test"):
        checked_issuers([GOOD, replace(GOOD, url="https://sso.test/realms/b")])
    with pytest.raises(ConfigError, match="two have the url"):
        checked_issuers([GOOD, replace(GOOD, name="b")])


def test_no_signature_that_can_be_configured_is_one_with_a_shared_secret() -> None:
    assert not [one for one in SIGNATURES if one.lower() == "none" or one.startswith("HS")]

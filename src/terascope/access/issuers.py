"""What the configuration says of issuers, checked before anything is asked of one."""

import re
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import urlsplit

from terascope.access.scopes import OPERATOR, checked
from terascope.core.config import IssuerConfig
from terascope.core.errors import BadRequest, ConfigError
from terascope.core.projects import SERVICE, checked_account, checked_project
from terascope.core.urls import is_private

SIGNATURES = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")
"""What may be configured: signatures that only the issuer can make. `none` is none, and with `HS256` the key that
verifies could also sign."""
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
_MOST_LEEWAY_S = 300


def checked_issuers(configs: Sequence[IssuerConfig]) -> list[IssuerConfig]:
    """Return the issuers, each with its name. Raises `ConfigError` that says which setting is wrong."""
    found = [_checked(config, f"auth.issuers.{number}") for number, config in enumerate(configs)]
    for what, values in (("name", [one.name for one in found]), ("url", [one.url for one in found])):
        if twice := sorted({value for value in values if values.count(value) > 1}):
            raise ConfigError(f"auth.issuers: two have the {what} {twice[0]}; give each a `{what}` of its own")
    return found


def _checked(config: IssuerConfig, where: str) -> IssuerConfig:
    _check_url(config.url, where)
    name = config.name or (urlsplit(config.url).hostname or "")
    if not _NAME.fullmatch(name) or name == SERVICE:
        raise ConfigError(f"{where}.name: write lower-case letters, digits, dots and dashes, and not `{SERVICE}`")
    if not config.audience:
        raise ConfigError(f"{where}.audience: say what `aud` must name, so that tokens for others are refused")
    if wrong := set(config.algorithms) - set(SIGNATURES):
        raise ConfigError(f"{where}.algorithms: {min(wrong)!r} cannot be taken; choose from {', '.join(SIGNATURES)}")
    if not config.algorithms or not 0 <= config.leeway_s <= _MOST_LEEWAY_S:
        raise ConfigError(f"{where}: name `algorithms`, and a `leeway_s` from 0 to {_MOST_LEEWAY_S}")
    if min(config.jwks_cache_s, config.jwks_retry_s) < 0 or config.jwks_stale_s < config.jwks_cache_s:
        raise ConfigError(f"{where}: `jwks_cache_s` is at least 0, and `jwks_stale_s` at least as much as it")
    if OPERATOR in config.scopes:
        raise ConfigError(f"{where}.scopes: not everybody can be an operator; use operator_users or operator_groups")
    _check_names(config, where)
    return replace(config, name=name)


def _check_url(url: str, where: str) -> None:
    """The keys that come from there decide who is who, so nobody may change them on the way."""
    if not is_private(url) or any(mark in url for mark in "?# "):
        raise ConfigError(f"{where}.url: write the issuer's https URL, without a query; http is for loopback only")


def _check_names(config: IssuerConfig, where: str) -> None:
    try:
        checked(config.scopes)
        for project in (config.project, *(group.project for group in config.groups)):
            checked_project(project)
        for account in config.clients.values():
            checked_account(account)
    except BadRequest as error:
        raise ConfigError(f"{where}: {error.message}") from None
    if not all(group.group for group in config.groups):
        raise ConfigError(f"{where}.groups: each entry names a `group`")

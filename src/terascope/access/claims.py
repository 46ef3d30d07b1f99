"""From the claims of a verified token to who that is here: policy, and nothing else."""

import hashlib
from collections.abc import Mapping
from typing import Any

from terascope.access.principal import Principal
from terascope.access.scopes import OPERATOR
from terascope.core.config import IssuerConfig
from terascope.core.errors import InvalidToken, NotAllowed
from terascope.core.projects import Role, checked_account, service_user

_MOST_NAME = 200  # characters of a user's name, as the database keeps it
_TYPES = {"access": ("", "jwt", "at+jwt"), "id": ("", "jwt")}  # of a token's header (RFC 9068, section 2.1)
_KEYCLOAK = {"access": ("bearer",), "id": ("id",)}  # what Keycloak says in a claim


def check_kind(config: IssuerConfig, header: Mapping[str, Any], claims: Mapping[str, Any]) -> None:
    """Raise `InvalidToken` for a token of a kind that is not meant for us (RFC 8725, section 3.12)."""
    kind = str(header.get("typ", "")).lower().removeprefix("application/")
    said = claims.get("typ")
    wrong = kind not in _TYPES[config.token] or (said is not None and str(said).lower() not in _KEYCLOAK[config.token])
    other = {"access": "at_hash" in claims, "id": claims.get("azp", config.audience) != config.audience}
    if wrong or other[config.token]:  # an ID token; one of another client
        raise InvalidToken(f"this is not an {config.token} token, which is what the issuer {config.name} is here for")
    if "cnf" in claims:
        raise InvalidToken("this token is bound to a key of its holder, which is not supported; get one that is not")


def principal_of(config: IssuerConfig, claims: Mapping[str, Any]) -> Principal:
    """Return who the holder of a token with these claims is.

    Raises `InvalidToken` when its user cannot be named, `NotAllowed` for a client that is no service account.
    """
    subject = claims["sub"]
    if subject in config.clients:
        project, name = checked_account(config.clients[subject])
        user = service_user(project, name)
        return Principal(_key_id(user), name, frozenset(config.scopes), user, project, confined=True)
    if subject in (claims.get("client_id"), claims.get("azp")):
        raise NotAllowed(
            f"this token is a client's own, and no service account here; an operator maps its `sub` in the `clients` "
            f"of the issuer {config.name}"
        )
    return _person(config, claims)


def _person(config: IssuerConfig, claims: Mapping[str, Any]) -> Principal:
    user = f"{config.name}:{_user(config, claims)}"
    groups = _groups(config, claims)
    operator = user in config.operator_users or not groups.isdisjoint(config.operator_groups)
    scopes = frozenset(config.scopes) | ({OPERATOR} if operator else set())
    roles = _roles(config, groups)
    return Principal(_key_id(user), user, scopes, user, next(iter(roles), config.project), roles)


def _user(config: IssuerConfig, claims: Mapping[str, Any]) -> str:
    """The name as it stands: normalised, two users could become one."""
    name = claims.get(config.user_claim)
    most = _MOST_NAME - len(config.name) - 1
    if not isinstance(name, str) or not 0 < len(name) <= most or not name.isprintable() or name != name.strip():
        raise InvalidToken(
            f"the claim {config.user_claim} of this token cannot name a user: it must have 1 to {most} characters, all "
            "printable"
        )
    if config.user_claim == "email" and claims.get("email_verified") is not True:
        raise InvalidToken("the e-mail address of this token is not verified by its issuer; verify it there")
    return name


def _groups(config: IssuerConfig, claims: Mapping[str, Any]) -> frozenset[str]:
    """The user's groups. What is no list of texts names none."""
    found: Any = claims.get(config.groups_claim)
    if found is None:
        found = claims
        for part in config.groups_claim.split("."):
            found = found.get(part) if isinstance(found, dict) else None
    entries = found if isinstance(found, list) else [found]
    return frozenset(one for one in entries if isinstance(one, str))


def _roles(config: IssuerConfig, groups: frozenset[str]) -> dict[str, Role]:
    """The role in each project; of several that of a PI goes before a member's, and that before an auditor's."""
    order = list(Role)
    roles: dict[str, Role] = {}
    for one in config.groups:
        if one.group in groups:
            role = Role(one.role)
            roles[one.project] = min(role, roles.get(one.project, role), key=order.index)
    return roles


def _key_id(user: str) -> str:
    """Takes the place of a key's id: one for each user, so that a new token is no new start for limits."""
    return f"oidc_{hashlib.sha256(user.encode()).hexdigest()[:32]}"

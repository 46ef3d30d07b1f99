"""`/v1/me` and `/.well-known/terascope`: who one is here, and how one can sign in."""

from fastapi import APIRouter

from terascope.access.issuers import checked_issuers
from terascope.gateway.depends import Caller, UseServices
from terascope.protocol.identity import LoginOption, LoginOptions, Me, MyProject

router = APIRouter(tags=["identity"])


@router.get("/v1/me")
async def show_me(use: UseServices, who: Caller) -> Me:
    """Who the key or the token belongs to, and what it may do."""
    projects = [
        MyProject(name=row.name, role=next(iter(found.roles_of(who)), None))
        for row in await use.access.projects.visible_to(who)
        if (found := await use.access.projects.find(row.name))
    ]
    return Me(
        user=who.user_id, key_id=who.key_id, scopes=sorted(who.scopes), operator=who.operator, project=who.project,
        confined=who.confined, expires=who.expires, projects=projects,
    )  # fmt: skip


@router.get("/.well-known/terascope")
async def show_logins(use: UseServices) -> LoginOptions:
    """Where `terascope login` can sign a user in; empty where there are API keys alone."""
    return LoginOptions(
        login=[
            LoginOption(
                name=one.name, issuer=one.url, client_id=one.login.client_id, scopes=one.login.scopes,
                resource=one.login.resource, token=one.token,
            )
            for one in checked_issuers(use.config.auth.issuers)
            if one.login.client_id
        ]
    )  # fmt: skip

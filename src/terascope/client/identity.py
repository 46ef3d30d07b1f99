"""What can be asked about who one is, and about service accounts."""

from urllib.parse import quote

from terascope.client.ask import Ask, Noun, Sender, call
from terascope.core.projects import Role
from terascope.protocol.identity import CreateServiceAccount, Me, ServiceAccountView, ServiceAccountViews

_ACCOUNTS = "/admin/v1/service-accounts"


class Identity(Noun[Sender]):
    """The holder of the key or the token."""

    @call
    def me(self) -> Ask[Me]:
        """Return who that is and what they may do."""
        return Ask("GET", "/v1/me", Me)


class ServiceAccounts(Noun[Sender]):
    """Users that are no person; changes need the key of a PI of their project or an operator."""

    @call
    def list(self, project: str = "") -> Ask[ServiceAccountViews]:
        """Return the service accounts of a project, or of all that one may see."""
        return Ask("GET", _ACCOUNTS, ServiceAccountViews, query={"project": project} if project else {})

    @call
    def create(self, project: str, name: str, *, role: str = Role.MEMBER, title: str = "") -> Ask[ServiceAccountView]:
        """Make a service account, a member of `project` in `role`."""
        body = CreateServiceAccount(project=project, name=name, role=Role(role), title=title)
        return Ask("POST", _ACCOUNTS, ServiceAccountView, body)

    @call
    def remove(self, project: str, name: str) -> Ask[None]:
        """Remove a service account; its keys are void at once."""
        return Ask("DELETE", f"{_ACCOUNTS}/{quote(project, safe='')}/{quote(name, safe='')}", type(None))

"""Who is let in as an agent: whoever shows the token of a replica that is wanted, for that replica's deployment."""

import hashlib
import secrets

from terascope.core.audit import Actor, acting_as
from terascope.core.errors import InvalidToken, NotAllowed, NotAuthenticated
from terascope.fleet.tunnel.gateway_end import GatewayEnd, Tunnels
from terascope.store.audit import note
from terascope.store.database import Database
from terascope.store.replicas import ReplicaStore

_REFUSED = "agent.refused"


def new_token() -> str:
    """Return a token for the agent of one replica."""
    return secrets.token_urlsafe(32)


def hashed(token: str) -> str:
    """What is stored of a token. It is random and long: a fast hash gives nothing away."""
    return hashlib.sha256(token.encode()).hexdigest()


class Gate:
    """Lets agents in."""

    def __init__(self, database: Database, tunnels: Tunnels) -> None:
        self._database = database
        self._store = ReplicaStore(database)
        self._tunnels = tunnels

    async def admit(self, authorization: str, deployment: str, address: str) -> GatewayEnd:
        """Return the end of the tunnel that an agent from `address` may use.

        Raises `NotAuthenticated` for no token, `InvalidToken` for one that is unknown or of a replica that has ended,
        and `NotAllowed` for one of another deployment, which the audit log then tells.
        """
        word, _, token = authorization.partition(" ")
        if word.lower() != "bearer" or not token.strip():
            raise NotAuthenticated("an agent shows its token as `Authorization: Bearer TOKEN`")
        row = await self._store.of_agent(hashed(token.strip()))
        if row is None:
            raise InvalidToken("this is not the token of an agent")
        if row.deployment != deployment:
            with acting_as(Actor("nobody", row.id, address)):
                await note(self._database, _REFUSED, deployment[:128], token_of=row.deployment)
            raise NotAllowed("this token is of another deployment; an agent serves its own only")
        end = self._tunnels.find(row.id)
        if end is None:
            raise InvalidToken("the replica of this token has ended")
        return end

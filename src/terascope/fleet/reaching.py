"""How a new replica is reached from here, and what its program is told of that."""

from pathlib import Path

from terascope.core.environment import AGENT_DEPLOYMENT, AGENT_TOKEN, REPLICA_SECRET
from terascope.engines.contract import Endpoint
from terascope.fleet.deployed import Deployed
from terascope.fleet.endpoints import Endpoints, new_secret
from terascope.fleet.launchers.contract import Place, Program
from terascope.fleet.logs import log_file
from terascope.fleet.replica import Replica
from terascope.fleet.tunnel.gateway_end import ENGINE, Tunnels

TUNNEL = "tunnel:"
"""How the URL of a replica behind a tunnel begins; its id follows."""


def endpoint_of(
    deployed: Deployed, replica_id: str, place: Place | None, endpoints: Endpoints, tunnels: Tunnels
) -> Endpoint:
    """Where a replica is reached from here. One behind a tunnel has an end of it from now on."""
    if deployed.external:
        return Endpoint(deployed.launch.deployment.url)
    if place is None:
        return endpoints.new(replica_id)
    if not place.reach.startswith(TUNNEL):
        return Endpoint(place.reach, new_secret())
    end = tunnels.expect(replica_id, place.grace_s)
    return Endpoint(place.reach, new_secret(), lambda protocol: end.connect(ENGINE, protocol))


def program_of(deployed: Deployed, replica: Replica, data_dir: Path, agent_token: str) -> Program:
    """What is started for a replica; with the token, where it has an agent beside it."""
    if deployed.external:
        return Program(replica.id, ())
    launch, endpoint = deployed.launch, replica.endpoint
    if replica.listen:  # what it listens at is behind a door of its node, or a tunnel
        endpoint = Endpoint(f"unix:{replica.listen}", endpoint.secret)
    variables = {**deployed.kind.environment(launch, endpoint), REPLICA_SECRET: endpoint.secret}
    if agent_token:
        variables |= {AGENT_TOKEN: agent_token, AGENT_DEPLOYMENT: deployed.name}
    first, *others = deployed.commands(endpoint)
    log, devices = log_file(data_dir, replica.id), launch.deployment.layout.devices
    return Program(replica.id, first, variables, log, replica.listen, devices, tuple(others))

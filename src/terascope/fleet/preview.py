"""What would be started for a replica, for whoever wants to see it first."""

from collections.abc import Mapping
from dataclasses import dataclass

from terascope.engines.contract import Endpoint
from terascope.fleet.deployed import Deployed
from terascope.fleet.launchers.batch.launcher import BatchLauncher
from terascope.fleet.launchers.contract import Launcher, Program

_REPLICA = "REPLICA"


@dataclass(frozen=True, slots=True)
class Preview:
    """A command line, the names of variables that go with it, and the job's script where it is a job."""

    command: tuple[str, ...]
    variables: tuple[str, ...]
    script: str = ""


def preview(deployed: Deployed, launchers: Mapping[str, Launcher]) -> Preview:
    """Return what a replica of `deployed` would be started with. What variables hold is not told: secrets are.

    Raises `ConfigError` when the deployment is impossible. It may block while a batch system's code renders.
    """
    launcher = launchers[deployed.launcher_name]
    place = launcher.place(_REPLICA)
    endpoint = Endpoint(f"unix:{place.listen if place else '/run/REPLICA.sock'}")
    command, *others = deployed.commands(endpoint)
    variables = deployed.kind.environment(deployed.launch, endpoint)
    script = ""
    if isinstance(launcher, BatchLauncher) and place:
        devices = deployed.launch.deployment.layout.devices
        program = Program(_REPLICA, command, variables, listen=place.listen, devices=devices, others=tuple(others))
        script = launcher.render(program)
    return Preview(command, tuple(sorted(variables)), script)

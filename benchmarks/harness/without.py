"""`terascope serve` without projects, policies, limits, turns, holds and a ledger, to see what those cost.

    python benchmarks/harness/without.py serve --config FILE ...

Keys are still checked and run records still written. Whoever has a key may ask, in no project's name, for nothing; the
first replica that is ready gets the request at once.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from terascope.access.access import Access
from terascope.access.accounts import Meter, NoMeter
from terascope.access.limits import Pass
from terascope.access.principal import Grant, Principal
from terascope.cli import main, serve
from terascope.core.models import Mode, ModelVersion
from terascope.core.projects import Qos
from terascope.fleet.fleet import Fleet
from terascope.fleet.replica import Replica
from terascope.gateway.app import Gateway
from terascope.gateway.services import Services
from terascope.inference.inference import Inference
from terascope.inference.turns import Turns


class NoLimits:
    """Lets everybody in."""

    def __init__(self) -> None:
        self._one = Pass()

    def enter(self, grant: Grant, tokens: int) -> Pass:
        return self._one

    def leave(self, one: Pass, tokens: int) -> None:
        """Nothing was counted."""


class NoAccounts:
    """Holds and settles nothing."""

    def __init__(self) -> None:
        self._meter = NoMeter()

    async def hold(self, *asked: object) -> Meter:
        return self._meter

    def settlement(self, *asked: object, **more: object) -> None:
        """Nothing was held."""


class Anybody:
    """Access that looks at the key alone."""

    def __init__(self, access: Access) -> None:
        self.identify = access.identify
        self.days = access.days
        self.limits, self.accounts = NoLimits(), NoAccounts()

    async def admit(self, who: Principal, version: ModelVersion, mode: Mode, *, qos: Qos, **more: object) -> Grant:
        return Grant(who, mode, version.public_name, qos=qos, unlimited="none")


class FirstReplica:
    """A place, and the turn that it gets at once: the first replica that is ready."""

    def __init__(self, fleet: Fleet, version: ModelVersion) -> None:
        self._fleet = fleet
        self._version = version

    def turn(self) -> "FirstReplica":
        return self

    async def __aenter__(self) -> Replica:
        return self._fleet.replicas_for(self._version.public_name)[0]

    async def __aexit__(self, *raised: object) -> None:
        """Nothing was counted."""

    def wait_s(self) -> None:
        """Nobody waits."""

    def settle(self, cost: int, tokens: int) -> None:
        """Nothing was charged."""

    first_byte = cost = settle


class NoTurns:
    """Gives everybody a place."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def place(self, grant: Grant, version: ModelVersion, *asked: object) -> FirstReplica:
        return FirstReplica(self._fleet, version)

    def lost(self, replica: Replica, *, again: bool = False) -> None:
        """It stays the first."""

    def answered(self, replica: Replica) -> None:
        """It stays the first."""


def stripped(services: Services) -> Gateway:
    """The gateway that is measured."""
    rooms: Mapping[str, Any] = {
        "access": cast(Access, Anybody(services.access)),
        "turns": cast(Turns, NoTurns(services.fleet)),
        "catalog": services.catalog, "recorder": services.recorder, "config": services.config.server,
        "clock": services.clock, "count": services.metrics.count, "artefacts": services.artefacts,
        "internals": services.config.internals, "files": services.files,
    }  # fmt: skip
    return Gateway(replace(services, inference=Inference(**rooms)))


if __name__ == "__main__":
    setattr(serve, "Gateway", stripped)  # noqa: B010 - the one place where a gateway is made; it is no constant to mypy
    main()

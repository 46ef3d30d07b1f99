"""The fourth hop: wait for a replica that can do what is asked."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from terascope.access.principal import Grant
from terascope.core.config import ServerConfig
from terascope.core.errors import ModelUnavailable, UnsupportedFeature
from terascope.core.models import ModelVersion
from terascope.fleet.fleet import Fleet
from terascope.fleet.replica import Replica
from terascope.protocol.request import ModelRequest
from terascope.scheduler.choice import least_loaded


class Turns:
    """Gives requests their turn on replicas; the waiting is here, the decision in `scheduler`."""

    def __init__(self, fleet: Fleet, config: ServerConfig) -> None:
        self._fleet = fleet
        self._config = config

    @asynccontextmanager
    async def turn(self, grant: Grant, version: ModelVersion, request: ModelRequest) -> AsyncIterator[Replica]:
        """A replica of `version` that can serve `request`, counted as in flight until the block ends.

        Waits while replicas are on their way. Raises `ModelUnavailable` when none is, or after
        `wait_timeout_s`, and `UnsupportedFeature` when replicas are ready but none can do what is asked.
        """
        replica = self._now(version, request) or await self._wait(version, request)
        replica.in_flight += 1
        try:
            yield replica
        finally:
            replica.in_flight -= 1

    def lost(self, replica: Replica) -> None:
        """The replica's engine did not answer: have it looked at."""
        self._fleet.report_lost(replica)

    async def _wait(self, version: ModelVersion, request: ModelRequest) -> Replica:
        try:
            async with asyncio.timeout(self._config.wait_timeout_s):
                while True:
                    if replica := self._now(version, request):
                        return replica
                    await self._fleet.wait_for_change(version.public_name)
        except TimeoutError:
            waited = f"no replica of {version.public_name} became ready in {self._config.wait_timeout_s:g} s"
            raise ModelUnavailable(waited, retry_after=60) from None

    def _now(self, version: ModelVersion, request: ModelRequest) -> Replica | None:
        ready = self._fleet.replicas_for(version.public_name)
        if not ready:
            self._fleet.check_hope(version.public_name)
            return None
        needs = request.needs()
        able = [one for one in ready if _for(request, one) and one.can(request.endpoint, needs)]
        if not able:
            raise UnsupportedFeature(_lacking(version, request, ready))
        return able[least_loaded([one.in_flight for one in able])]


def _for(request: ModelRequest, replica: Replica) -> bool:
    """Whether the deployment may be used in the request's mode."""
    return request.mode in replica.launch.deployment.modes


def _lacking(version: ModelVersion, request: ModelRequest, ready: tuple[Replica, ...]) -> str:
    meant = [one.lacks(request.endpoint, request.needs()) for one in ready if _for(request, one)]
    if not meant:
        return f"{version.public_name} is not there for {request.mode}; GET /v1/models lists what each model is for"
    lacking = min(meant, key=len)
    return f"{version.public_name} cannot do {', '.join(sorted(lacking))} on the engines that serve it"

"""One running replica, as the request path sees it."""

import asyncio

from terascope.core.states import ReplicaStatus
from terascope.engines.contract import Endpoint, Engine, EngineInfo, Launch
from terascope.scheduler.breaker import Breaker
from terascope.store.replicas import ReplicaRow


class Replica:
    """A row, the adapter to its engine, and how much it has to do.

    `info` is what the engine said of itself, None until it has answered. `suspect` is set while there is reason
    to doubt that it answers: then it gets no new requests, but it is not given up yet. `breaker` knows how its last
    requests ended: one that loses them although it answers probes gets no more while others can take them.
    `listen` is the path of the socket where it runs, when that is another machine.
    """

    def __init__(self, row: ReplicaRow, launch: Launch, endpoint: Endpoint, engine: Engine, listen: str = "") -> None:
        self.row = row
        self.launch = launch
        self.endpoint = endpoint
        self.engine = engine
        self.listen = listen
        self.info: EngineInfo | None = None
        self.suspect = False
        self.breaker = Breaker()
        self.in_flight = 0
        """How many requests it is answering; `occupy` and `free` change it."""
        self._peak = 0
        self._idle: asyncio.Event | None = None  # once somebody has waited for it

    @property
    def id(self) -> str:
        """The id of its row."""
        return self.row.id

    @property
    def served_name(self) -> str:
        """The model's name in requests to the engine."""
        return self.launch.served_name

    @property
    def engine_label(self) -> str:
        """Engine and version, as run records name them."""
        return f"{self.info.engine} {self.info.version}"[:80] if self.info else self.row.engine

    @property
    def takes_requests(self) -> bool:
        """Whether new requests may be sent to it."""
        return self.row.status is ReplicaStatus.READY and not self.suspect

    def occupy(self, requests: int) -> None:
        """It answers so many requests more."""
        self.in_flight += requests
        if self.in_flight > self._peak:
            self._peak = self.in_flight

    def free(self, requests: int) -> None:
        """So many of those that it answered are over."""
        self.in_flight -= requests
        if not self.in_flight and self._idle is not None:
            self._idle.set()

    def take_peak(self) -> int:
        """The most requests that it answered at once since the last call."""
        peak, self._peak = self._peak, self.in_flight
        return peak

    async def idle(self) -> None:
        """Return once nothing is in flight."""
        idle = self._idle = self._idle or asyncio.Event()
        while self.in_flight:
            idle.clear()
            await idle.wait()

    def lacks(self, endpoint: str, needs: frozenset[str]) -> frozenset[str]:
        """Return what of `needs`, and `endpoint` itself, its engine does not have."""
        if self.info is None:
            return needs | {endpoint}
        can = self.info.capabilities
        return (needs - can.features) | (frozenset({endpoint}) - can.endpoints)

    def can(self, endpoint: str, needs: frozenset[str]) -> bool:
        """Whether its engine has `endpoint` and all of `needs`."""
        return not self.lacks(endpoint, needs)

"""Keeps one replica of a deployment: when it ends, another takes its place, later and later."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import StrEnum

from terascope.core.clock import Clock
from terascope.core.states import ReplicaStatus
from terascope.fleet.deployed import Deployed
from terascope.fleet.reconciler import backoff_s
from terascope.fleet.starts import Starts
from terascope.fleet.supervisor import Supervisor
from terascope.fleet.waiting import within

MOST_FAILED_STARTS = 5
"""So many starts in a row without a ready replica, and waiting requests are told that there is no hope."""

_log = logging.getLogger(__name__)


class ServingState(StrEnum):
    """How a model or a deployment is served, the best of its replicas counting; best first."""

    READY = "ready"  # answers requests
    STARTING = "starting"  # a replica is on its way; requests wait
    COLD = "cold"  # no replica is kept while nobody asks; the first request starts one, and waits
    FAILED = "failed"  # none is on its way that is likely to arrive; requests are refused, starts go on
    STOPPED = "stopped"  # no replica is wanted


class Slot:
    """One place for a replica.

    Hope is lost after `MOST_FAILED_STARTS` starts in a row of which none became ready (an engine that is not
    ours to start: after one). Attempts go on at the back-off's ceiling all the same, and the first success
    restores hope. A replica that was ready and then dies loses no hope, however often; only its back-off grows.
    """

    def __init__(
        self,
        deployed: Deployed,
        begin: Callable[["Slot"], Awaitable[Supervisor]],
        clock: Clock,
        refresh: Callable[[], None],
    ) -> None:
        self.deployed = deployed
        self.restarts = 0
        self.supervisor: Supervisor | None = None
        self._begin = begin
        self._clock = clock
        self._refresh = refresh
        self._failures = 0  # in a row; decides the back-off
        self._failed_starts = 0  # in a row; decides hope
        self._reason = ""
        self._closing = asyncio.Event()

    @property
    def state(self) -> ServingState:
        """What this slot contributes to its deployment."""
        if self._closing.is_set():
            return ServingState.STOPPED
        if self.supervisor and self.supervisor.replica.takes_requests:
            return ServingState.READY
        return ServingState.STARTING if self.hopeful else ServingState.FAILED

    @property
    def hopeful(self) -> bool:
        """Whether a replica that can answer is likely to come."""
        if self._closing.is_set() or self._quarantined:
            return False
        most = 1 if self.deployed.external else MOST_FAILED_STARTS
        return self._failed_starts < most or self._arrived

    @property
    def message(self) -> str:
        """What its replica does, or why there is none; for the user."""
        row = self.supervisor.replica.row if self.supervisor else None
        return row.message if row and (self.hopeful or self._quarantined) else self._reason

    @property
    def retry_after_s(self) -> float:
        """When another attempt may have been made."""
        return backoff_s(max(1, self._failures))

    async def prepare(self) -> None:
        """Make the row of the first replica, so that it shows before it is started."""
        self.supervisor = await self._begin(self)

    async def run(self) -> None:
        """Keep a replica running until `close`; the first is the one that `prepare` made."""
        while True:
            try:
                await self._run_one()
            except Exception:  # noqa: BLE001 - the edge of one slot: the others go on
                _log.exception("deployment %s: a replica could not be supervised", self.deployed.name)
                self._failed("the gateway could not supervise it; its log has the reason")
            self._refresh()
            await self._pause()
            if self._closing.is_set():
                return
            self.supervisor = None
            self.restarts += 1

    def retire(self) -> None:
        """Want no replica any more; what its replica is answering may end. `run` returns once nothing is left of it."""
        self._closing.set()
        if self.supervisor:
            self.supervisor.stop()
        self._refresh()

    def coming_s(self, starts: Starts) -> float | None:
        """In about how many seconds its replica will be ready, as past starts tell; None when they do not."""
        return starts.left_s(self.deployed, *(self.supervisor.start_s if self.supervisor else (0.0, None)))

    @property
    def closing(self) -> bool:
        """Whether no replica is wanted here any more."""
        return self._closing.is_set()

    def close(self) -> None:
        """Want no replica any more; `run` returns once nothing is left of the last."""
        self._closing.set()
        if self.supervisor:
            self.supervisor.stop(hurry=True)
        self._refresh()

    async def _run_one(self) -> None:
        self.supervisor = self.supervisor or await self._begin(self)
        if self._closing.is_set():  # while the row was being written
            self.supervisor.stop(hurry=True)
        await self.supervisor.run()
        self._learn(self.supervisor)

    def _learn(self, ended: Supervisor) -> None:
        if ended.healthy_s >= self.deployed.limits.healthy_s:
            self._failures = 0
        self._failed(ended.replica.row.message)
        if ended.was_ready and not self.deployed.external:
            self._failed_starts = 0

    def _failed(self, reason: str) -> None:
        self._failures += 1
        self._failed_starts += 1
        self._reason = reason

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            await within(self._clock, backoff_s(self._failures), self._closing.wait())

    @property
    def _arrived(self) -> bool:
        """Whether the present replica has been ready."""
        now = self.supervisor
        return now is not None and now.was_ready and not now.replica.row.status.final

    @property
    def _quarantined(self) -> bool:
        return bool(self.supervisor and self.supervisor.replica.row.status is ReplicaStatus.QUARANTINED)

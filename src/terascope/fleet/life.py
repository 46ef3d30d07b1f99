"""A row and the program behind it, moved one step at a time; every step is durable before the next."""

import logging
from asyncio import Event
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from terascope.core.clock import Clock
from terascope.core.states import ReplicaStatus, ReplicaTarget
from terascope.fleet.launchers.contract import Handle, Launcher, Observation, Program
from terascope.fleet.reconciler import Kind, Limits, Seen, backoff_s, next_step
from terascope.fleet.waiting import within
from terascope.store.replicas import ReplicaRow, ReplicaStore

Changed = Callable[[ReplicaRow], None]
Listener = Callable[[ReplicaRow, str], None]
"""Called with a replica's row and its message whenever its status or message has changed; must return soon."""

_log = logging.getLogger(__name__)
_HURRIED_ATTEMPTS = 3


class Life:
    """The only writer of its row. `changed` is called after every change, of the message too."""

    def __init__(
        self,
        row: ReplicaRow,
        launcher: Launcher,
        store: ReplicaStore,
        clock: Clock,
        changed: Changed,
        limits: Limits,
    ) -> None:
        self.row = row
        self._launcher = launcher
        self._store = store
        self._clock = clock
        self._changed = changed
        self._limits = limits
        self._given_up = False
        self._entered = clock.monotonic()
        self._hurried = Event()

    @property
    def in_status_s(self) -> float:
        """Seconds since the status changed, as far as this life of the gateway knows."""
        return self._clock.monotonic() - self._entered

    @property
    def over(self) -> bool:
        """Whether nothing more will happen to it: it has ended, or could not be stopped in the hurry."""
        return self.row.status.final or self._given_up

    @property
    def hurried(self) -> bool:
        """Whether the gateway is ending."""
        return self._hurried.is_set()

    def say(self, message: str) -> None:
        """Change the message; it is stored with the next step."""
        if message != self.row.message:
            self.row = replace(self.row, message=message, changed=self._clock.now())
            self.notify()

    def waits(self, reason: str) -> None:
        """Its program has not begun: the time until it does is not its own."""
        self._entered = self._clock.monotonic()
        self.say(reason)

    def notify(self) -> None:
        """Tell whoever listens to look again."""
        self._changed(self.row)

    def aim(self, target: ReplicaTarget, *, hurry: bool = False) -> None:
        """Want something else of it. In a hurry, what cannot be stopped soon is left to the next life."""
        self.row = replace(self.row, target=target)
        if hurry:
            self._hurried.set()

    async def launch(self, program: Program) -> None:
        """Start the program; the row is `starting` from the first handle on. Raises `OSError`."""
        async for handle in self._launcher.start(program):
            await self._save(ReplicaStatus.STARTING, "is being started", handle)
        if not self.row.handle:
            raise OSError("the launcher started nothing")

    async def mark(self, status: ReplicaStatus, message: str) -> None:
        """Write a new status."""
        await self._save(status, message, self.row.handle)

    async def end(self, status: ReplicaStatus, message: str) -> None:
        """Stop whatever is left, however often that takes, then write the final status.

        When it cannot be stopped and the gateway is ending, the row keeps its status and says why: the next
        life of the gateway tries again.
        """
        attempt = 0
        while self.row.handle:
            try:
                await self._launcher.stop(self.row.handle, grace_s=self._limits.grace_s)
                break
            except OSError as error:
                attempt += 1
                _log.warning("replica %s cannot be stopped: %s", self.row.id, error)
                await self.mark(self.row.status, f"cannot be stopped yet: {error}")
                self._given_up = self.hurried and attempt >= _HURRIED_ATTEMPTS
                if self._given_up:
                    return
                await self._pause(backoff_s(attempt))
        await self.mark(status, message)

    async def ended(self) -> Observation:
        """Return when the program has ended."""
        return await self._launcher.ended(self.row.handle)

    async def observe(self) -> Observation:
        """Look at the program once."""
        return await self._launcher.observe(self.row.handle)

    async def _pause(self, seconds: float) -> None:
        if self.hurried:
            await self._clock.sleep(seconds)
            return
        with suppress(TimeoutError):
            await within(self._clock, seconds, self._hurried.wait())

    async def _save(self, status: ReplicaStatus, message: str, handle: Handle) -> None:
        if status is not self.row.status:
            self._entered = self._clock.monotonic()
        row = replace(self.row, status=status, message=message, handle=handle, changed=self._clock.now())
        await self._store.update(row)
        self.row = replace(row, target=self.row.target)  # which may have changed while the row was being written
        self.notify()


async def put_away(life: Life, limits: Limits) -> None:
    """Stop what an earlier life of the gateway left, as well as that can be done now."""
    life.aim(ReplicaTarget.STOPPED, hurry=True)
    while not life.over:
        action = next_step(life.row, Seen(), limits)
        if action.kind is Kind.END:
            await life.end(ReplicaStatus.STOPPED, "was left by an earlier life of the gateway")
        elif action.status:
            await life.mark(action.status, action.message)

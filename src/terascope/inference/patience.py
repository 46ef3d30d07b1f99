"""How long a request may be silent: heartbeats, the idle limit, the client's own deadline.

There is no limit on the total time of an answer. One timer per request looks at when something was last heard,
so that an event costs no timer of its own.
"""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType

from terascope.core.config import ServerConfig
from terascope.core.errors import DeadlineExceeded, IdleTimeout, ServiceError

Beat = Callable[[], Awaitable[None]]


class Patience:
    """Watches one request from inside `async with`; ends it with an error when its time is over.

    `beat` is called after every `heartbeat_s` of silence; None for answers that are not streams, which also
    have no idle limit: their engine is rightly silent until it is done.
    """

    def __init__(self, config: ServerConfig, *, deadline_s: float | None, beat: Beat | None) -> None:
        self._config = config
        self._deadline_s = deadline_s
        self._beat = beat
        self._loop = asyncio.get_running_loop()
        self._heard = self._sent = self._begun = self._loop.time()
        self._engine_works = self._delivering = False
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._beating: asyncio.Future[None] | None = None
        self._over: ServiceError | None = None

    def engine_works(self) -> None:
        """From now on the idle limit counts."""
        self._engine_works = True
        self._heard = self._loop.time()

    def heard(self) -> None:
        """The engine said something and it is being passed on; until `delivered` it is the client's turn."""
        self._heard = self._sent = self._loop.time()
        self._delivering = True

    def delivered(self) -> None:
        """The client has taken it; it is the engine's turn again."""
        self._heard = self._sent = self._loop.time()
        self._delivering = False

    async def __aenter__(self) -> "Patience":
        self._task = asyncio.current_task()
        if self._beat is not None or self._deadline_s is not None:
            self._again()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer:
            self._timer.cancel()
        if self._beating:
            self._beating.cancel()
        if self._over and kind is asyncio.CancelledError and self._task and self._task.uncancel() == 0:
            raise self._over from None

    def _again(self) -> None:
        now = self._loop.time()
        due = [] if self._deadline_s is None else [self._begun + self._deadline_s]
        if self._beat is not None:
            due.append((now if self._delivering else self._sent) + self._config.heartbeat_s)
            due.append((self._heard if self._engine_works else now) + self._config.idle_timeout_s)
        self._timer = self._loop.call_at(max(min(due), now + 0.001), self._look)

    def _look(self) -> None:
        now = self._loop.time()
        if self._deadline_s is not None and now >= self._begun + self._deadline_s:
            return self._end(
                DeadlineExceeded(f"the deadline of {self._deadline_s:g} s that the request set has passed")
            )
        if self._beat is not None:
            if self._engine_works and now - self._heard >= self._config.idle_timeout_s:
                silent = "the client took nothing of its answer" if self._delivering else "the engine said nothing"
                return self._end(IdleTimeout(f"{silent} for {self._config.idle_timeout_s:g} s"))
            if now - self._sent >= self._config.heartbeat_s and not self._delivering:
                self._send_beat(self._beat, now)
        return self._again()

    def _send_beat(self, beat: Beat, now: float) -> None:
        self._sent = now
        if self._beating is None or self._beating.done():  # else the client has not even taken the last one
            self._beating = asyncio.ensure_future(beat())

    def _end(self, error: ServiceError) -> None:
        self._over = error
        if self._task:
            self._task.cancel()
